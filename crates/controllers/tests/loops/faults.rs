//! The way from the controllers to the server, as networks and crashes make it: writes that conflict, that do
//! not arrive, whose answer is lost or that are the last of their process; changes that are heard of late.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Transport, TransportError};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use wire::{Body, Request, Response};

/// A row of numbers that is the same for the same beginning.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// Somebody else was faster.
    Conflicts,
    NeverArrives,
    /// It is done and nobody hears of it.
    AnswerLost,
    /// The process ends with it, before or after it is done.
    Dies {
        done: bool,
    },
}

/// What goes wrong, by chance.
pub(crate) struct Faults {
    chance: Mutex<Chance>,
    /// Nothing goes wrong any more.
    calm: AtomicBool,
    /// Whether the process that runs now is at its end: nothing leaves it.
    dead: Mutex<Arc<AtomicBool>>,
    /// Objects that were created without their maker knowing.
    unknown: AtomicUsize,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            chance: Mutex::new(Chance(seed)),
            calm: AtomicBool::new(false),
            dead: Mutex::default(),
            unknown: AtomicUsize::new(0),
        })
    }

    fn below(&self, bound: u64) -> u64 {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    pub(crate) fn cease(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).load(Ordering::SeqCst)
    }

    /// Another process begins; what is still on its way from the one before says nothing of it.
    fn begin(&self) -> Arc<AtomicBool> {
        let dead = Arc::<AtomicBool>::default();
        *self.dead.lock().unwrap_or_else(PoisonError::into_inner) = dead.clone();
        dead
    }

    pub(crate) fn unknown(&self) -> usize {
        self.unknown.load(Ordering::SeqCst)
    }

    fn fate(&self) -> Fate {
        if self.calm.load(Ordering::SeqCst) {
            return Fate::Arrives;
        }
        match self.below(40) {
            0..=3 => Fate::Conflicts,
            4 | 5 => Fate::NeverArrives,
            6 | 7 => Fate::AnswerLost,
            8 => Fate::Dies { done: true },
            9 => Fate::Dies { done: false },
            _ => Fate::Arrives,
        }
    }

    /// How long a change is on its way.
    fn lag(&self) -> Option<Duration> {
        let late = !self.calm.load(Ordering::SeqCst) && self.below(4) == 0;
        late.then(|| Duration::from_millis(self.below(30)))
    }
}

/// The way itself.
pub(crate) struct Faulty {
    to: Arc<dyn Transport>,
    faults: Arc<Faults>,
    dead: Arc<AtomicBool>,
}

impl Faulty {
    /// The way of a process that begins.
    pub(crate) fn new(to: Arc<dyn Transport>, faults: Arc<Faults>) -> Self {
        Self { to, dead: faults.begin(), faults }
    }
}

impl Transport for Faulty {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        let (to, faults, dead) = (self.to.clone(), self.faults.clone(), self.dead.clone());
        async move {
            if dead.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            if request.method() == Method::GET {
                let response = to.send(request).await?;
                return Ok(response.map(|body| late(body, faults)));
            }
            let creates_pod = request.method() == Method::POST && request.uri().path().ends_with("/pods");
            let fate = faults.fate();
            if fate == (Fate::Dies { done: false }) {
                dead.store(true, Ordering::SeqCst);
                return std::future::pending().await;
            }
            if fate == Fate::Conflicts {
                return Ok(conflict());
            }
            let broken = || TransportError::Broken("the test broke it".into());
            if fate == Fate::NeverArrives {
                return Err(broken());
            }
            if fate == Fate::Arrives {
                return to.send(request).await;
            }
            // Counted before it can be seen.
            faults.unknown.fetch_add(usize::from(creates_pod), Ordering::SeqCst);
            to.send(request).await?;
            if fate == Fate::AnswerLost {
                return Err(broken());
            }
            dead.store(true, Ordering::SeqCst);
            std::future::pending().await
        }
        .boxed()
    }
}

fn conflict() -> Response {
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the object has been modified","reason":"Conflict","code":409}"#;
    let response = http::Response::builder().status(409).header("content-type", "application/json");
    response.body(wire::full(status)).expect("a response")
}

/// The same body, piece after piece, some of them late.
fn late(body: Body, faults: Arc<Faults>) -> Body {
    let pieces = body.into_data_stream().then(move |piece| {
        let lag = faults.lag();
        async move {
            if let Some(lag) = lag {
                // The lag is what is tested, nothing waits for it.
                tokio::time::sleep(lag).await;
            }
            piece
        }
    });
    wire::body_from_stream(pieces)
}
