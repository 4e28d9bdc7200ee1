//! Times and names made at the edge.

use shim::protocol::Nanoseconds;

/// Now, as files and the shim's protocol have it.
pub(crate) fn now() -> Nanoseconds {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// 0 means "not yet".
pub(crate) fn timestamp(time: Nanoseconds) -> Option<jiff::Timestamp> {
    if time == 0 { None } else { jiff::Timestamp::from_nanosecond(i128::from(time)).ok() }
}

/// A new id of `2 * N` hexadecimal digits.
pub(crate) fn random_id<const N: usize>() -> Result<String, crate::Error> {
    let mut bytes = [0u8; N];
    let rng = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&rng, &mut bytes)
        .map_err(|e| crate::Error::host("failed to make an id", e))?;
    Ok(crate::image::hex(&bytes))
}
