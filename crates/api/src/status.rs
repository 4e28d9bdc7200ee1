//! metav1.Status: every error a client sees, in upstream's words.
