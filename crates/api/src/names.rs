//! Names the server makes: the suffix of generateName.
