//! What every store has to do, as tests that a store's own tests call.
