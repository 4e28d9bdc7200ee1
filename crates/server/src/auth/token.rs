//! ServiceAccount tokens: JWTs signed with ES256, dead when what they are bound to is.

use std::collections::HashMap;
use std::sync::Mutex;

use api::kinds::find;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use ring::{digest, error};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::user::{CREDENTIAL_ID, service_account_groups, service_account_name};
use super::{Auth, Settings, User};
use crate::lookup::Lookup;

/// Why a key cannot sign tokens.
#[derive(Debug, thiserror::Error)]
#[error("the service account key is not an ECDSA P-256 key in PKCS#8: {reason}")]
pub struct KeyError {
    reason: String,
}

/// The key that signs tokens.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    /// Of the public key, as upstream computes it: SHA-256 of its SubjectPublicKeyInfo.
    id: String,
    random: SystemRandom,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What stands before the point in the SubjectPublicKeyInfo of a P-256 key.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl TokenKey {
    /// From PKCS#8 DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| KeyError { reason: e.to_string() })?;
        let spki = [&SPKI_PREFIX, pair.public_key().as_ref()].concat();
        let id = BASE64.encode(digest::digest(&digest::SHA256, &spki));
        Ok(Self { pair, id, random })
    }

    /// A new key, as PKCS#8 DER.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|der| der.as_ref().to_vec())
            .map_err(|e| KeyError { reason: e.to_string() })
    }

    /// The public key as a JSON Web Key Set.
    pub(super) fn jwks(&self) -> Vec<u8> {
        // An uncompressed point: 0x04, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        let id = &self.id;
        format!(
            r#"{{"keys":[{{"use":"sig","kty":"EC","kid":"{id}","crv":"P-256","alg":"ES256","x":"{x}","y":"{y}"}}]}}"#
        )
        .into_bytes()
    }

    fn sign(&self, claims: &Claims) -> Result<String, error::Unspecified> {
        let header = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, self.id);
        let claims = serde_json::to_vec(claims).map_err(|_| error::Unspecified)?;
        let mut token = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = self.pair.sign(&self.random, token.as_bytes())?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of a token with a good signature; nothing else of it is checked.
    fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let malformed = || Refusal("invalid bearer token".to_owned());
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| malformed());
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
        if header.alg != "ES256" {
            return Err(Refusal(format!("unexpected signature algorithm {:?}", header.alg)));
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        key.verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| Refusal("invalid bearer token".to_owned()))?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| Refusal("invalid bearer token".to_owned()))
    }

    fn random_id(&self) -> Result<String, error::Unspecified> {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes)?;
        Ok(api::names::uuid_v4(bytes))
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

/// Why a token is not accepted; for logs and TokenReviews only.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(String);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn as_slice(&self) -> &[String] {
        match self {
            Audiences::One(one) => std::slice::from_ref(one),
            Audiences::Many(many) => many,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    aud: Audiences,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
    nbf: i64,
    sub: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Private {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

/// A name with the uid of the object that had it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    #[serde(default)]
    pub(super) uid: String,
}

/// What a token is bound to besides its account.
#[derive(Debug, Default)]
pub(super) struct Bound {
    pub(super) pod: Option<Reference>,
    pub(super) node: Option<Reference>,
    pub(super) secret: Option<Reference>,
}

/// The one asked for by the projected volumes of Pods: an hour and seven seconds. It is
/// stretched to a year, so that programs that read their token once keep working.
const PROJECTED_SECONDS: i64 = 3607;
const STRETCHED_SECONDS: i64 = 365 * 24 * 60 * 60;
/// Bound objects that are being deleted keep their tokens this long past their grace period.
const DELETION_LEEWAY_SECONDS: i64 = 60;

impl Auth {
    /// Signs a token for an account that exists.
    pub(super) fn issue(
        &self,
        namespace: &str,
        account: Reference,
        bound: Bound,
        audiences: Vec<String>,
        seconds: i64,
        now: Timestamp,
    ) -> Result<String, error::Unspecified> {
        let key = &self.settings.key;
        let issued = now.as_second();
        let for_api = audiences.iter().all(|a| *a == self.settings.issuer);
        let stretch = seconds == PROJECTED_SECONDS && bound.pod.is_some() && for_api;
        key.sign(&Claims {
            aud: Audiences::Many(audiences),
            exp: issued + if stretch { STRETCHED_SECONDS } else { seconds },
            iat: issued,
            iss: self.settings.issuer.clone(),
            jti: key.random_id()?,
            sub: service_account_name(namespace, &account.name),
            private: Private {
                namespace: namespace.to_owned(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: account,
                warnafter: stretch.then_some(issued + seconds),
            },
            nbf: issued,
        })
    }

    /// The user of a token that is good for one of the audiences, with those of them it is good for.
    pub(super) fn token_user(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(User, Vec<String>), Refusal> {
        let claims = self.verified.claims(token, &self.settings.key)?;
        check_times(&claims, now)?;
        if claims.iss != self.settings.issuer {
            return Err(Refusal("invalid bearer token".to_owned()));
        }
        let own = claims.aud.as_slice();
        let common: Vec<String> = audiences.iter().filter(|a| own.contains(a)).cloned().collect();
        if common.is_empty() {
            let (invalid, wanted) = (api::rbac::quoted_list(own), api::rbac::quoted_list(audiences));
            return Err(Refusal(format!(
                "token audiences {invalid} is invalid for the target audiences {wanted}"
            )));
        }
        check_bound(&claims.private, &self.lookup, now)?;
        Ok((user(&claims), common))
    }
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(), Refusal> {
    let now = now.as_second();
    if now > claims.exp {
        return Err(Refusal("service account token has expired".to_owned()));
    }
    if now < claims.nbf {
        return Err(Refusal("service account token is not valid yet".to_owned()));
    }
    Ok(())
}

/// Everything the token is bound to must still be there, and be the same.
fn check_bound(private: &Private, lookup: &Lookup, now: Timestamp) -> Result<(), Refusal> {
    let ns = private.namespace.as_str();
    let bound = [
        ("serviceaccounts", "service account", ns, Some(&private.serviceaccount)),
        ("pods", "pod", ns, private.pod.as_ref()),
        ("secrets", "secret", ns, private.secret.as_ref()),
        // A node named beside a Pod is information, not a binding.
        ("nodes", "node", "", private.node.as_ref().filter(|_| private.pod.is_none())),
    ];
    for (plural, what, namespace, reference) in bound {
        let Some(reference) = reference else { continue };
        let alive = find("", "v1", plural)
            .and_then(|resource| lookup.get(resource, namespace, &reference.name))
            .and_then(|bytes| serde_json::from_slice::<Alive>(&bytes).ok())
            .ok_or_else(|| Refusal("service account token has been invalidated".to_owned()))?;
        if alive.metadata.uid != reference.uid {
            let (uid, claim) = (&alive.metadata.uid, &reference.uid);
            return Err(Refusal(format!("{what} UID ({uid}) does not match claim ({claim})")));
        }
        let deadline = alive.metadata.deletion_timestamp.map(|t| t.as_second() + DELETION_LEEWAY_SECONDS);
        if deadline.is_some_and(|deadline| now.as_second() > deadline) {
            return Err(Refusal(format!("{what} has been deleted")));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Alive {
    metadata: AliveMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AliveMeta {
    #[serde(default)]
    uid: String,
    deletion_timestamp: Option<Timestamp>,
}

fn user(claims: &Claims) -> User {
    let private = &claims.private;
    let mut user = User {
        name: service_account_name(&private.namespace, &private.serviceaccount.name),
        uid: private.serviceaccount.uid.clone(),
        groups: service_account_groups(&private.namespace),
        ..User::default()
    };
    let mut extra = |key: &str, value: &str| user.extra.insert(key.to_owned(), vec![value.to_owned()]);
    extra(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    if let Some(pod) = &private.pod {
        extra("authentication.kubernetes.io/pod-name", &pod.name);
        extra("authentication.kubernetes.io/pod-uid", &pod.uid);
    }
    if let Some(node) = &private.node {
        extra("authentication.kubernetes.io/node-name", &node.name);
        extra("authentication.kubernetes.io/node-uid", &node.uid);
    }
    user
}

/// Claims whose signature was checked, by the SHA-256 of their token: a signature costs a
/// hundred microseconds, and a Pod shows the same token with every request.
#[derive(Default)]
pub(super) struct Verified {
    by_digest: Mutex<HashMap<[u8; 32], Claims>>,
}

/// More are forgotten all at once: each is under a kilobyte, and comes back with one request.
const MAX_VERIFIED: usize = 4096;

impl Verified {
    fn claims(&self, token: &str, key: &TokenKey) -> Result<Claims, Refusal> {
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let lock = || self.by_digest.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(claims) = lock().get(&digest) {
            return Ok(claims.clone());
        }
        let claims = key.verify(token)?;
        let mut kept = lock();
        if kept.len() >= MAX_VERIFIED {
            kept.clear();
        }
        kept.insert(digest, claims.clone());
        Ok(claims)
    }
}

/// The document that tells others how to verify tokens.
pub(super) fn openid_configuration(settings: &Settings) -> Vec<u8> {
    let document: Value = json!({
        "issuer": settings.issuer,
        "jwks_uri": format!("{}/openid/v1/jwks", settings.public_url),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    document.to_string().into_bytes()
}
