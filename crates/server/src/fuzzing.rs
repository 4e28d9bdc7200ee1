//! A door for the fuzz targets (`fuzz/`): what reads a request's line and headers.

use http::{HeaderMap, HeaderValue, Method, header};

use crate::{negotiate, path, query};

/// Reads the path, query and Accept header of a request. What is read and written again must mean
/// the same.
pub fn request(path: &str, query: &str, accept: &[u8]) {
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let _ = path::parse(&method, path, query.len() % 2 == 1);
    }
    let once = query::Query::parse(Some(query)).encode();
    let twice = query::Query::parse(Some(&once)).encode();
    assert_eq!(once, twice, "a query that was written is read as what it says");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(accept) {
        headers.insert(header::CONTENT_TYPE, value.clone());
        headers.insert(header::ACCEPT, value);
    }
    let _ = (negotiate::accept(&headers, true), negotiate::media_type(&headers));
}
