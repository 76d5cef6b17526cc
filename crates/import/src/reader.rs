//! The thread that reads an export, with bounded memory.

use std::io::BufRead;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::conversation::{Conversation, InvalidConversation};
use crate::elements::{Elements, ExportError};

/// Maximum memory for conversations that are not uploaded yet; reading waits while it is used up. A
/// larger conversation waits until it is the only one.
const BUDGET_KIBIBYTES: u32 = 16 << 10;
/// Maximum number of queued conversations; reading waits while the queue is full.
const QUEUE: usize = 4;

/// An element of the export.
#[derive(Debug)]
pub(crate) struct Item {
    /// The index in the export, from 0.
    pub(crate) index: u64,
    /// The byte of the export at which it ends.
    pub(crate) end: u64,
    pub(crate) conversation: ReadConversation,
    /// Must be held while the conversation is in memory.
    pub(crate) permit: OwnedSemaphorePermit,
}

type ReadConversation = Result<Conversation, InvalidConversation>;

/// Yields the elements in order, until the export ends or an error occurs.
///
/// After this is dropped, the thread ends as soon as its current read returns. A read from a silent
/// pipe can't be interrupted.
#[derive(Debug)]
pub(crate) struct Reader {
    items: mpsc::Receiver<Result<Item, ExportError>>,
    budget: Arc<Semaphore>,
}

impl Reader {
    /// Reads the first `limit` elements.
    pub(crate) fn start<R>(elements: Elements<R>, limit: Option<u64>) -> std::io::Result<Self>
    where
        R: BufRead + Send + 'static,
    {
        let (sender, items) = mpsc::channel(QUEUE);
        let budget = Arc::new(Semaphore::new(BUDGET_KIBIBYTES as usize));
        let work = Work {
            elements,
            sender,
            budget: Arc::clone(&budget),
            runtime: Handle::current(),
        };
        std::thread::Builder::new()
            .name("export".to_owned())
            .spawn(move || work.run(limit.unwrap_or(u64::MAX)))?;
        Ok(Self { items, budget })
    }

    /// The next element. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Item, ExportError>> {
        self.items.recv().await
    }

    /// Whether the queue is empty.
    pub(crate) fn is_idle(&self) -> bool {
        self.items.is_empty()
    }

    /// Stops reading.
    pub(crate) fn stop(&mut self) {
        self.items.close();
        self.budget.close();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Work<R> {
    elements: Elements<R>,
    sender: mpsc::Sender<Result<Item, ExportError>>,
    budget: Arc<Semaphore>,
    runtime: Handle,
}

impl<R: BufRead> Work<R> {
    fn run(mut self, limit: u64) {
        for index in 0..limit {
            let item = match read(&mut self.elements) {
                Ok(None) => return,
                Ok(Some(conversation)) => {
                    let Some(permit) = self.permit(&conversation) else {
                        return;
                    };
                    Ok(Item {
                        index,
                        end: self.elements.position(),
                        conversation,
                        permit,
                    })
                }
                Err(error) => Err(error),
            };
            let is_last = item.is_err();
            if self.sender.blocking_send(item).is_err() || is_last {
                return;
            }
        }
    }

    /// Waits until there is memory for a conversation; `None` if the import has stopped.
    fn permit(&self, conversation: &ReadConversation) -> Option<OwnedSemaphorePermit> {
        let bytes = conversation.as_ref().map_or(0, Conversation::bytes);
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let kibibytes = kibibytes.min(BUDGET_KIBIBYTES);
        let permit = Arc::clone(&self.budget).acquire_many_owned(kibibytes);
        self.runtime.block_on(permit).ok()
    }
}

fn read<R: BufRead>(elements: &mut Elements<R>) -> Result<Option<ReadConversation>, ExportError> {
    let Some(mut element) = elements.next()? else {
        return Ok(None);
    };
    let conversation = Conversation::read(&mut element);
    // After an invalid element, the next one is read, unless the end of the element is missing.
    element.finish()?;
    Ok(Some(conversation))
}
