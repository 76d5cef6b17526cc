//! Makes an edit again in another document.

use meshagent_document::{MeshDocument, Remade, UpdateKind};

/// What becomes of an edit in another document.
pub(super) enum Again {
    /// It fits as it is.
    Same,
    Made(Vec<u8>),
    /// All that it did was to take back what is not there.
    Nothing,
    Lost,
}

/// Makes an edit again, as far as it can be.
pub(super) fn again(
    document: &mut MeshDocument,
    update: &[u8],
    before: &MeshDocument,
    remade: &mut Remade,
) -> Again {
    let fits = match document.classify(update) {
        // The server has it, whatever it builds on. Made again, it would be there twice.
        Ok(UpdateKind::Contained) => true,
        Ok(UpdateKind::New) => remade.concerns(update) == Ok(false),
        _ => false,
    };
    if fits {
        return match document.apply_update(update) {
            Ok(_) => Again::Same,
            Err(_) => Again::Lost,
        };
    }
    match document.remake(update, before, remade) {
        Ok(Some(update)) => Again::Made(update),
        Ok(None) => Again::Nothing,
        Err(_) => Again::Lost,
    }
}
