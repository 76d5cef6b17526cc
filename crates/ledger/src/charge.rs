//! Charges: bytes that are held for a connection until they are dropped.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::account::{Account, FREE_BYTES, How};
use crate::bounds::{OverBound, Scope};
use crate::kind::Kind;
use crate::level::{Waits, wait_at};
use crate::lock;

/// The permits of a message's charges to exceed bounds, because others may wait for memory that its
/// connection holds. They return when the last of these charges is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pass {
    pub(crate) participant: Option<Arc<OwnedSemaphorePermit>>,
    /// This one permits to exceed all bounds.
    pub(crate) server: Option<Arc<OwnedSemaphorePermit>>,
}

/// Bytes of one kind that are held for a connection. They are released when the charge is dropped.
#[derive(Debug)]
pub struct Charge {
    /// `None` for a charge of zero bytes that belongs to no account.
    account: Option<Arc<Account>>,
    kind: Kind,
    bytes: usize,
    /// The part of `bytes` that was taken with the permit to exceed all bounds.
    passed: usize,
    pass: Pass,
}

impl Charge {
    /// Creates a charge of zero bytes that belongs to no account. It stays zero when it grows.
    pub fn none() -> Self {
        Self::new(None, Kind::Received)
    }

    pub(crate) fn new(account: Option<Arc<Account>>, kind: Kind) -> Self {
        Self {
            account,
            kind,
            bytes: 0,
            passed: 0,
            pass: Pass::default(),
        }
    }

    /// The charge of bytes that were taken already.
    pub(crate) fn taken(account: Arc<Account>, kind: Kind, bytes: usize) -> Self {
        let mut charge = Self::new(Some(account), kind);
        charge.bytes = bytes;
        charge
    }

    /// The charged bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges more bytes, or none if they would cross a bound.
    ///
    /// # Errors
    ///
    /// If a bound would be crossed; the charge is unchanged then.
    pub fn try_grow(&mut self, more: usize) -> Result<(), OverBound> {
        if let Some(account) = &self.account {
            let pass = Pass::default();
            let taken = account.take(self.kind, more, How::Now, &pass);
            taken.map_err(|scope| {
                account.note_refusal(scope);
                OverBound { scope }
            })?;
            self.bytes += more;
        }
        Ok(())
    }

    /// Charges more bytes as soon as they fit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the charge covers the same bytes as before.
    pub async fn grow(&mut self, more: usize) {
        let Some(account) = self.account.clone() else {
            return;
        };
        let take = |at, pass: &Pass| account.take(self.kind, more, How::InTurn(at), pass);
        let mut taken = take(Scope::Connection, &self.pass);
        while let Err(scope) = taken {
            let level = account.level(self.kind, scope);
            let _waits = Waits::at(level);
            let may_use_reserve = || account.waits_for_reserve(level, scope, more);
            let was_small = may_use_reserve();
            let waited = wait_at(level, scope, may_use_reserve, || take(scope, &self.pass));
            // The first bytes of a connection are not taken from its participant or the server, so
            // no other charge waits for them there. A kind counts them.
            let may_pass = scope == Scope::Kind || account.held() > FREE_BYTES;
            let is_own = matches!(scope, Scope::Connection | Scope::Participant);
            let overdraft = if is_own {
                &account.participant.overdraft
            } else {
                &account.ledger().overdraft
            };
            tokio::select! {
                biased;
                result = waited => taken = result,
                // The reserve is its right now, so it waits among those that may use it.
                () = account.participant.lightened(may_use_reserve), if !was_small => {
                    taken = take(scope, &self.pass);
                }
                permit = Arc::clone(overdraft).acquire_owned(), if may_pass => {
                    // The semaphores are never closed, so `permit` is not an error.
                    let permit = permit.ok().map(Arc::new);
                    if is_own {
                        self.pass.participant = permit;
                    } else {
                        self.pass.server = permit;
                    }
                    taken = take(scope, &self.pass);
                }
            }
        }
        self.bytes += more;
        if self.pass.server.is_some() {
            self.passed += more;
        }
    }

    /// Charges bytes of another kind as soon as they fit, for the same message: both charges share
    /// the right to exceed bounds.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, nothing is charged.
    pub async fn beside(&mut self, kind: Kind, bytes: usize) -> Self {
        let mut other = Self::new(self.account.clone(), kind);
        other.pass = self.pass.clone();
        other.grow(bytes).await;
        self.pass = other.pass.clone();
        other
    }

    /// Grows until the charge covers this number of bytes, as soon as they fit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the charge covers the same bytes as before.
    pub async fn cover(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            self.grow(more).await;
        }
    }

    /// Charges more bytes regardless of the bounds.
    pub fn grow_anyway(&mut self, more: usize) {
        if let Some(account) = &self.account {
            account.take_anyway(self.kind, more);
            self.bytes += more;
        }
    }

    /// Releases a part of the bytes, at most all of them.
    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        self.stop_passing(less);
        if let Some(account) = &self.account {
            account.give(self.kind, less);
        }
    }

    /// Counts up to so many bytes no longer as beyond the bounds.
    fn stop_passing(&mut self, bytes: usize) {
        let bytes = bytes.min(self.passed);
        if bytes > 0
            && let Some(account) = &self.account
        {
            self.passed -= bytes;
            let ledger = account.ledger();
            ledger.kind(self.kind).stop_passing(bytes);
            ledger.server.stop_passing(bytes);
        }
    }

    /// Takes over the bytes of another charge of the same connection and kind.
    ///
    /// # Errors
    ///
    /// Returns the other charge if it has another connection or kind.
    pub fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if self.account.is_none() && self.bytes == 0 {
            *self = other;
            return Ok(());
        }
        let same_account = match (&self.account, &other.account) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            _ => other.bytes == 0,
        };
        if !same_account || self.kind != other.kind {
            return Err(other);
        }
        self.bytes += std::mem::take(&mut other.bytes);
        self.passed += std::mem::take(&mut other.passed);
        let pass = std::mem::take(&mut other.pass);
        self.pass.participant = self.pass.participant.take().or(pass.participant);
        self.pass.server = self.pass.server.take().or(pass.server);
        Ok(())
    }

    /// Gives up the right to exceed bounds, if there is one.
    pub fn stand_back(&mut self) {
        self.stop_passing(usize::MAX);
        self.pass = Pass::default();
    }

    /// A bound that the charge had the right to exceed, and that is exceeded now.
    fn exceeded(&self) -> Option<Scope> {
        let account = self.account.as_ref()?;
        let scopes: &[Scope] = if self.pass.server.is_some() {
            &[Scope::Kind, Scope::Participant, Scope::Server]
        } else if self.pass.participant.is_some() {
            &[Scope::Participant]
        } else {
            &[]
        };
        let exceeded = |scope: &Scope| account.level(self.kind, *scope).is_exceeded();
        scopes.iter().copied().find(exceeded)
    }

    /// Changes the kind of the bytes.
    #[must_use]
    pub fn into_kind(mut self, kind: Kind) -> Self {
        if let Some(account) = &self.account {
            account.ledger().kind(kind).add(self.bytes);
            account.ledger().kind(self.kind).give(self.bytes);
            let mut own = lock(&account.own);
            own.uncount(self.kind, self.bytes);
            own.count(kind, self.bytes);
            drop(own);
            if self.passed > 0 {
                account.ledger().kind(kind).pass(self.passed);
                account.ledger().kind(self.kind).stop_passing(self.passed);
            }
            self.kind = kind;
        }
        self
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
        self.stand_back();
    }
}

/// The memory that one message holds, from its last byte until everything that it caused is done.
#[derive(Debug)]
pub struct Held {
    received: Charge,
    parsed: Charge,
}

impl Held {
    /// Joins the charges for a message's bytes and for its JSON as values.
    pub fn new(received: Charge, parsed: Charge) -> Self {
        Self { received, parsed }
    }

    /// Creates charges of zero bytes, for work that no message caused.
    pub fn none() -> Self {
        Self::new(Charge::none(), Charge::none())
    }

    /// Changes the kind of all bytes.
    #[must_use]
    pub fn into_kind(self, kind: Kind) -> Self {
        Self::new(self.received.into_kind(kind), self.parsed.into_kind(kind))
    }

    /// Gives up the right to exceed bounds, if there is one.
    pub fn stand_back(&mut self) {
        self.received.stand_back();
        self.parsed.stand_back();
    }

    /// Gives up the right to exceed bounds before its peer is waited for. The peer may take long,
    /// and many may hold memory meanwhile, so the bytes have to be within the bounds.
    ///
    /// # Errors
    ///
    /// If they are not; the right is kept then.
    pub fn try_stand_back(&mut self) -> Result<(), OverBound> {
        let received = self.received.exceeded();
        if let Some(scope) = received.or_else(|| self.parsed.exceeded()) {
            return Err(OverBound { scope });
        }
        self.stand_back();
        Ok(())
    }

    /// Charges more bytes regardless of the bounds, for something that the message caused.
    pub fn grow_anyway(&mut self, more: usize) {
        self.received.grow_anyway(more);
    }

    /// The charged bytes of both charges.
    pub fn bytes(&self) -> usize {
        self.received.bytes() + self.parsed.bytes()
    }
}

impl From<Charge> for Held {
    fn from(charge: Charge) -> Self {
        Self::new(charge, Charge::none())
    }
}
