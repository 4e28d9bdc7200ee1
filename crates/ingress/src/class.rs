//! Whose Ingresses these are.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressClassSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The name of the class that every cluster has.
pub const CLASS: &str = "monopod";
/// What a class names whose Ingresses are served here.
pub const CONTROLLER: &str = "monopod.io/ingress-controller";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How an Ingress named its class before there were IngressClasses.
const ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The class as it is made where there is none.
pub(crate) fn built_in() -> IngressClass {
    IngressClass {
        metadata: ObjectMeta {
            name: Some(CLASS.to_owned()),
            annotations: Some([(DEFAULT.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(IngressClassSpec { controller: Some(CONTROLLER.to_owned()), parameters: None }),
    }
}

fn is_own(class: &IngressClass) -> bool {
    class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER)
}

fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(DEFAULT)).is_some_and(|value| value == "true")
}

/// Whether an Ingress is served here. One that names no class may be older than the classes, which give
/// new ones theirs: it is ours as long as the default is.
pub(crate) fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    if ingress.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    let annotated = || ingress.metadata.annotations.as_ref()?.get(ANNOTATION);
    match named.or_else(annotated) {
        Some(name) => {
            let class = classes.iter().find(|class| class.metadata.name.as_ref() == Some(name));
            class.is_some_and(|class| is_own(class))
        }
        None => classes.iter().any(|class| is_own(class) && is_default(class)),
    }
}
