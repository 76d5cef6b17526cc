//! Makes an edit again in another document.

use meshagent_document::{MeshDocument, Remade, UpdateKind};

/// The result of making an edit again.
pub(super) enum Again {
    /// It fits unchanged.
    Same,
    Made(Vec<u8>),
    /// It only reverted something that is not there.
    Nothing,
    Lost,
}

/// Makes an edit again in `document`, as far as possible.
pub(super) fn again(
    document: &mut MeshDocument,
    update: &[u8],
    before: &MeshDocument,
    remade: &mut Remade,
) -> Again {
    let fits = match document.classify(update) {
        // The server has it already, whatever it depends on. Made again, it would be there twice.
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
