//! The thread that reads an export, and how much of it may wait.

use std::io::BufRead;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::conversation::{Conversation, InvalidConversation};
use crate::elements::{Elements, ExportError};

/// Memory for conversations that were read and are not in the room yet; when it is used up, reading waits. A
/// conversation that is larger waits until it is the only one.
const BUDGET_KIBIBYTES: u32 = 16 << 10;
/// How many conversations wait to be taken; when they are this many, reading waits.
const QUEUE: usize = 4;

/// An element of the export.
#[derive(Debug)]
pub(crate) struct Item {
    /// Counted from 0.
    pub(crate) index: u64,
    /// Where in the export it ends.
    pub(crate) end: u64,
    pub(crate) conversation: ReadConversation,
    /// To be held for as long as the conversation is in memory.
    pub(crate) permit: OwnedSemaphorePermit,
}

type ReadConversation = Result<Conversation, InvalidConversation>;

/// Where the elements come from, in order, until the export ends or can't be read any further.
///
/// The thread ends when this is dropped, or when it reads next: nobody can wake it from a pipe that says nothing.
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

    /// Whether nothing is there to be taken right now.
    pub(crate) fn is_idle(&self) -> bool {
        self.items.is_empty()
    }

    /// Reads no further.
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

    /// Waits until there is memory for a conversation; `None` if nobody wants it any more.
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
    // An element that can't be read leads to the next one, unless it has no end.
    element.finish()?;
    Ok(Some(conversation))
}
