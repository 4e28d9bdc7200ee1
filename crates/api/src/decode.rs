//! Bytes of a client into an object: strict where asked, in upstream's words.
