//! Rules that many kinds share: names, labels, annotations.
