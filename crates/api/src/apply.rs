//! Server-side apply and the field managers of an object.
