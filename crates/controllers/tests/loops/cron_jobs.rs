//! CronJobs and finished Jobs over Pods that a test lets succeed.

use http::Method;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use crate::cluster::Cluster;

const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
const YEARLY: &str = "/apis/batch/v1/namespaces/default/cronjobs/yearly";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn template() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}})
}

/// A CronJob that is due since the year began, once it is no longer suspended.
async fn yearly(cluster: &Cluster) -> Value {
    let spec =
        json!({"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": template()}}});
    let cron_job =
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "yearly"}, "spec": spec});
    cluster.post(CRON_JOBS, cron_job).await;
    let status = json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}});
    cluster.ask(Method::PATCH, &format!("{YEARLY}/status"), status).await.unwrap()
}

/// When the year began, as the API writes it, and the Job that is due since then.
fn due() -> (String, String) {
    let year = TimeZone::UTC.to_datetime(Timestamp::now()).date().first_of_year();
    let at = TimeZone::UTC.to_timestamp(year.at(0, 0, 0, 0)).unwrap();
    (at.to_string(), format!("yearly-{}", at.as_second() / 60))
}

async fn resume(cluster: &Cluster) {
    cluster.ask(Method::PATCH, YEARLY, json!({"spec": {"suspend": false}})).await.unwrap();
}

async fn items(cluster: &Cluster, path: &str) -> Vec<Value> {
    let mut list = cluster.ask(Method::GET, path, Value::Null).await.unwrap();
    list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

async fn until_there(cluster: &Cluster, path: &str) {
    let is_there = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|list| !list["items"].as_array().unwrap().is_empty())
    };
    cluster.until(path, is_there).await;
}

/// All Pods that there are succeed.
async fn succeed(cluster: &Cluster) {
    until_there(cluster, PODS).await;
    for pod in items(cluster, PODS).await {
        let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
        cluster.ask(Method::PATCH, &path, json!({"status": {"phase": "Succeeded"}})).await.unwrap();
    }
}

/// The reasons of the events so far.
async fn until_told(cluster: &Cluster, wanted: &str) {
    let told = |answer: &Result<Value, client::Error>| {
        let said = |event: &Value| {
            format!("{}: {}", event["reason"].as_str().unwrap(), event["message"].as_str().unwrap())
        };
        let events = answer.as_ref().unwrap()["items"].as_array().unwrap();
        events.iter().any(|event| said(event) == wanted)
    };
    cluster.until(EVENTS, told).await;
}

#[tokio::test]
async fn a_job_that_is_due_is_made_once_and_its_end_is_seen_by_whoever_comes_next() {
    let mut cluster = Cluster::start().await;
    yearly(&cluster).await;
    resume(&cluster).await;
    let (at, name) = due();
    let listed = |answer: &Result<Value, client::Error>| {
        let status = &answer.as_ref().unwrap()["status"];
        status["active"][0]["name"] == *name && status["lastScheduleTime"] == *at
    };
    cluster.until(YEARLY, listed).await;
    let job = cluster.ask(Method::GET, &format!("{JOBS}/{name}"), Value::Null).await.unwrap();
    assert_eq!(job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"], *at);
    assert_eq!(job["metadata"]["ownerReferences"][0]["name"], "yearly");
    until_told(&cluster, &format!("SuccessfulCreate: Created job {name}")).await;

    cluster.restart_controllers().await;
    succeed(&cluster).await;
    let ended = |answer: &Result<Value, client::Error>| {
        let status = &answer.as_ref().unwrap()["status"];
        status["active"].is_null() && status["lastSuccessfulTime"].is_string()
    };
    cluster.until(YEARLY, ended).await;
    until_told(&cluster, &format!("SawCompletedJob: Saw completed job: {name}, condition: Complete")).await;
    assert_eq!(items(&cluster, JOBS).await.len(), 1);

    let none = json!({"spec": {"successfulJobsHistoryLimit": 0}});
    cluster.ask(Method::PATCH, YEARLY, none).await.unwrap();
    cluster.until_gone(&format!("{JOBS}/{name}")).await;
    until_told(&cluster, &format!("SuccessfulDelete: Deleted job {name}")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_whose_maker_did_not_live_to_list_it_is_listed_and_not_made_again() {
    let cluster = Cluster::start().await;
    let cron_job = yearly(&cluster).await;
    let (at, name) = due();
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "yearly",
        "uid": cron_job["metadata"]["uid"], "controller": true});
    let made = cluster
        .post(
            JOBS,
            json!({"metadata": {"name": name, "ownerReferences": [owner]}, "spec": {"template": template()}}),
        )
        .await;
    resume(&cluster).await;
    let listed = |answer: &Result<Value, client::Error>| {
        let status = &answer.as_ref().unwrap()["status"];
        status["active"][0]["uid"] == made["metadata"]["uid"] && status["lastScheduleTime"] == *at
    };
    cluster.until(YEARLY, listed).await;
    assert_eq!(items(&cluster, JOBS).await.len(), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_of_the_name_that_is_somebody_elses_is_left_alone() {
    let cluster = Cluster::start().await;
    yearly(&cluster).await;
    let (_, name) = due();
    cluster.post(JOBS, json!({"metadata": {"name": name}, "spec": {"template": template()}})).await;
    resume(&cluster).await;
    // What comes after it in the queue is done after it.
    let other = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "other"},
        "spec": {"schedule": "0 0 31 2 *", "jobTemplate": {"spec": {"template": template()}}}});
    cluster.post(CRON_JOBS, other).await;
    let text = "invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second";
    until_told(&cluster, &format!("InvalidSchedule: {text}")).await;
    let yearly = cluster.ask(Method::GET, YEARLY, Value::Null).await.unwrap();
    assert_eq!(yearly["status"], json!({"lastScheduleTime": "2020-01-01T00:00:00Z"}));
    cluster.stop().await;
}

#[tokio::test]
async fn a_finished_job_goes_with_its_pods_when_its_time_is_over() {
    let cluster = Cluster::start().await;
    for (name, ttl) in [("soon", json!(0)), ("late", json!(3600)), ("never", Value::Null)] {
        let spec = json!({"ttlSecondsAfterFinished": ttl, "template": template()});
        cluster.post(JOBS, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let all = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|pods| pods["items"].as_array().unwrap().len() == 3)
    };
    cluster.until(PODS, all).await;
    succeed(&cluster).await;
    cluster.until_gone(&format!("{JOBS}/soon")).await;
    let pods = items(&cluster, PODS).await;
    assert!(pods.iter().all(|pod| pod["metadata"]["labels"]["job-name"] != "soon"), "its Pod went first");
    for name in ["late", "never"] {
        let complete = |answer: &Result<Value, client::Error>| {
            let conditions = answer.as_ref().unwrap()["status"]["conditions"].to_string();
            conditions.contains("\"Complete\"")
        };
        cluster.until(&format!("{JOBS}/{name}"), complete).await;
    }
    // Who gives it less is heard at once.
    let spec = json!({"spec": {"ttlSecondsAfterFinished": 0}});
    cluster.ask(Method::PATCH, &format!("{JOBS}/late"), spec).await.unwrap();
    cluster.until_gone(&format!("{JOBS}/late")).await;
    assert_eq!(items(&cluster, JOBS).await.len(), 1);
    cluster.stop().await;
}
