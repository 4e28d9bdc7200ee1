//! Tasks that end without an answer.

use crate::pod::event::{Action, Event, ImageError, StartFailure};

/// What the worker tells of an action whose task has panicked.
pub(super) fn lost(action: &Action) -> Option<Event> {
    let why = || "panicked".to_string();
    Some(match action.clone() {
        Action::MountVolumes => Event::VolumesFailed { message: why() },
        Action::RunSandbox { attempt } => Event::SandboxFailed { attempt, message: why() },
        Action::EnsureImage { container, reference } => {
            let image = reference.clone();
            Event::ImageFailed { container, reference, image, error: ImageError::Inspect, message: why() }
        }
        Action::StartContainer { container, attempt, .. } => {
            Event::ContainerFailed { container, attempt, failure: StartFailure::Create, message: why() }
        }
        Action::RunPostStart { container, id } => Event::PostStartDone { container, id, result: Err(why()) },
        Action::RunPreStop { container, id } => Event::PreStopDone { container, id, result: Err(why()) },
        Action::TerminateContainer { container, id } | Action::KillContainer { container, id } => {
            Event::KillFailed { container, id, message: why() }
        }
        Action::WithdrawEndpoints { .. } => Event::EndpointsWithdrawn,
        Action::StopSandbox { id } => Event::SandboxStopped { id, result: Err(why()) },
        Action::UnmountVolumes => Event::VolumesUnmounted(Err(why())),
        Action::RemovePod => Event::Removed(Err(why())),
        Action::KeepAllocation { .. } => Event::AllocationKept(Err(why())),
        Action::ResizePod { .. } => Event::Resized(Err(why())),
        Action::DeleteObject => Event::ObjectDeleted(Err(client::Retry::Never)),
        _ => return None,
    })
}
