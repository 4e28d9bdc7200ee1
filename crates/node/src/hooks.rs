//! postStart and preStop hooks.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::pod::event::HookReport;
use crate::probing::{Target, http};

/// Longest wait for an HTTP hook.
const HTTP_AT_MOST: Duration = Duration::from_secs(30);

/// Runs a hook to its end.
pub(crate) async fn run(target: &Target, hook: &LifecycleHandler) -> Result<HookReport, String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output = target
            .runtime
            .exec_sync(&target.id, command.clone(), None)
            .await
            .map_err(|err| err.to_string())?;
        return match output.exit_code {
            0 => Ok(HookReport::default()),
            code => Err(format!("command '{}' exited with {code}", command.join(" "))),
        };
    }
    if let Some(get) = &hook.http_get {
        return run_http(http::Get::of_action(get, target)?).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())).await;
        return Ok(HookReport::default());
    }
    // tcpSocket is accepted by the API and never worked.
    Err(format!("invalid handler: {hook:?}"))
}

async fn run_http(get: http::Get) -> Result<HookReport, String> {
    let fell_back = |done: Result<http::Answer, http::FetchError>, fell_back_to_http| match done {
        Ok(answer) if (200..400).contains(&answer.status) => Ok(HookReport { fell_back_to_http }),
        Ok(answer) => Err(format!("HTTP lifecycle hook failed with status code: {}", answer.status)),
        Err(err) => Err(err.to_string()),
    };
    match http::fetch(&get, HTTP_AT_MOST).await {
        Err(err) if get.is_https() && err.is_plain_text() => {
            fell_back(http::fetch(&get.over_http(), HTTP_AT_MOST).await, true)
        }
        done => fell_back(done, false),
    }
}
