//! A target for every parser of foreign bytes, and the inputs that once broke one.
//!
//! ```text
//! cargo test         ─ tests/corpus.rs ─┐
//! cargo xtask fuzz   ─ driver/ (libFuzzer) ─┴─ TARGETS ─ a function of bytes each
//! ```
//!
//! A target is a plain function: it may not panic, overflow the stack, or take long, whatever the
//! bytes. Some also say what must hold of what was read. `corpus/NAME/` has a few small inputs that
//! lead into a parser, and every input that a fuzzer found to break one; the ordinary tests replay them.
//! The driver is a package of its own outside the workspace, so that the fuzzer's library is no
//! dependency of the program.
//!
//! Add a target: a function here, a line in [`TARGETS`], an input in `corpus/`.

mod objects;
mod streams;
mod texts;

/// A function that must stand any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("json", objects::json),
    ("yaml", objects::yaml),
    ("protobuf", objects::protobuf),
    ("json_patch", objects::json_patch),
    ("merge_patch", objects::merge_patch),
    ("strategic_patch", objects::strategic_patch),
    ("apply", objects::apply),
    ("selectors", texts::selectors),
    ("quantity", texts::quantity),
    ("request", texts::request),
    ("image_reference", texts::image_reference),
    ("image_documents", texts::image_documents),
    ("registry_url", texts::registry_url),
    ("registry_answer", texts::registry_answer),
    ("kubeconfig", texts::kubeconfig),
    ("signing_request", texts::signing_request),
    ("websocket", streams::websocket),
    ("spdy", streams::spdy),
    ("shim", streams::shim),
    ("layer", streams::layer),
    ("compressed", streams::compressed),
    ("dns", streams::dns),
    ("store", streams::store),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
