//! Subscriptions to the events of a document.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::{DocumentEnd, DocumentEvent};

/// The events of a document since [`LiveDocument::changes`](super::LiveDocument::changes), read
/// with [`recv`](Self::recv) or as a `Stream`.
#[derive(Debug)]
pub struct Changes {
    events: mpsc::Receiver<DocumentEvent>,
}

impl Changes {
    /// The next event; `None` once the document has ended and all events were received.
    ///
    /// Up to 1,024 events wait for a slow subscriber. Further events are dropped, and
    /// [`DocumentEvent::Missed`] then precedes the next event for which there is room. There is
    /// always room for the end. [`LiveDocument::saved`](super::LiveDocument::saved) has the content
    /// of missed refusals.
    ///
    /// # Cancel safety
    ///
    /// No event is lost.
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// use meshagent_client::DocumentEvent;
    ///
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// let mut changes = document.changes();
    /// document.edit(|d| d.append_child(Target::Root, json!({ "body": { "text": "tea" } })))??;
    /// while let Some(event) = changes.recv().await {
    ///     if let DocumentEvent::Changed(_) = event {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # });
    /// ```
    pub async fn recv(&mut self) -> Option<DocumentEvent> {
        self.events.recv().await
    }

    /// The next event, if one is available.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// let document = room.sync().open("notes.document").await?;
    /// let mut changes = document.changes();
    /// assert_eq!(changes.try_recv(), None);
    /// # Ok(())
    /// # });
    /// ```
    pub fn try_recv(&mut self) -> Option<DocumentEvent> {
        self.events.try_recv().ok()
    }
}

impl Stream for Changes {
    type Item = DocumentEvent;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<DocumentEvent>> {
        self.events.poll_recv(context)
    }
}

/// The sender of a subscription.
#[derive(Debug)]
pub(super) struct Subscriber {
    events: mpsc::Sender<DocumentEvent>,
    has_missed: bool,
}

impl Subscriber {
    pub(super) fn new() -> (Self, Changes) {
        let (sender, events) = mpsc::channel(EVENT_CAPACITY + LAST_EVENTS);
        let subscriber = Self {
            events: sender,
            has_missed: false,
        };
        (subscriber, Changes { events })
    }

    /// Sends an event if there is room for it. Returns false if nobody receives events any more.
    pub(super) fn send(&mut self, event: &DocumentEvent) -> bool {
        if self.has_missed && self.has_room() {
            self.has_missed = self.events.try_send(DocumentEvent::Missed).is_err();
        }
        if self.has_missed || !self.has_room() {
            self.has_missed = true;
        } else {
            self.has_missed = self.events.try_send(event.clone()).is_err();
        }
        !self.events.is_closed()
    }

    /// Whether there is room for an event that is not one of the last.
    fn has_room(&self) -> bool {
        self.events.capacity() > LAST_EVENTS
    }

    /// Sends the last events.
    pub(super) fn end(self, end: &DocumentEnd) {
        let missed = self.has_missed.then_some(DocumentEvent::Missed);
        let ended = DocumentEvent::Ended(end.clone());
        for event in missed.into_iter().chain([ended]) {
            // There is room for it, unless nobody receives events any more.
            let _sent = self.events.try_send(event);
        }
    }
}

/// How many events a subscriber may leave unread.
const EVENT_CAPACITY: usize = 1024;

/// How many events are sent at the end: that some were missed, and the end.
const LAST_EVENTS: usize = 2;
