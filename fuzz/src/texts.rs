//! Small texts: selectors, quantities, request lines, names and documents of images, what registries
//! say, kubeconfigs, certificate requests.

use api::kinds;
use api::quantity::Quantity;
use api::selector::{FieldSelector, LabelSelector};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::image::{Digest, Reference};

pub(crate) fn selectors(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(selector) = LabelSelector::parse(&text) {
        let again = LabelSelector::parse(&selector.to_string()).expect("what was written can be read");
        assert_eq!(again.to_string(), selector.to_string());
    }
    let pods = kinds::find("", "v1", "pods").expect("pods are served");
    let _ = FieldSelector::parse(pods, &text);
}

pub(crate) fn quantity(bytes: &[u8]) {
    let texts = String::from_utf8_lossy(bytes);
    let mut sum = Quantity::default();
    for text in texts.split(' ') {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let again: Quantity = quantity.to_string().parse().expect("what was written can be read");
            assert_eq!(again.to_string(), quantity.to_string());
            let _ = (quantity.value(), quantity.milli_value(), quantity.as_f64(), quantity.cmp(&sum));
            sum.add(&quantity);
            sum.sub(&again);
            sum.add(&again);
        }
    }
}

pub(crate) fn request(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b' ');
    let mut next = || parts.next().unwrap_or_default();
    let (path, query) = (String::from_utf8_lossy(next()), String::from_utf8_lossy(next()));
    server::fuzzing::request(&path, &query, next());
}

pub(crate) fn image_reference(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(reference) = Reference::parse(&text) {
        let again = Reference::parse(&reference.to_string()).expect("what was written can be read");
        assert_eq!(again.to_string(), reference.to_string());
    }
    let _ = (Reference::parse_untagged(&text), Digest::parse(&text));
}

pub(crate) fn image_documents(bytes: &[u8]) {
    runtime::image::fuzzing::documents(bytes);
}

pub(crate) fn registry_url(bytes: &[u8]) {
    runtime::image::fuzzing::registry_url(&String::from_utf8_lossy(bytes));
}

pub(crate) fn registry_answer(bytes: &[u8]) {
    // One for each input: what the last one left running would be part of the next.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(runtime::image::fuzzing::registry_answer(bytes));
}

pub(crate) fn kubeconfig(bytes: &[u8]) {
    let Ok(config) = client::kubeconfig::parse(&String::from_utf8_lossy(bytes)) else { return };
    let _ = client::Https::new(&config);
}

/// PEM, as a request carries it in base64.
pub(crate) fn signing_request(bytes: &[u8]) {
    let request = api::certificates::SigningRequest::parse(&STANDARD.encode(bytes));
    let _ = request.map(|request| request.check_signature());
}
