//! What the courses and posts tell of running services, done with Deployments.

use crate::harness::{Instance, testdata};

/// A service that writes its log to a folder it shares with a shipper, as the course has it with filebeat;
/// the shipper sends each line to a place that prints it.
const SHOP: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: es, labels: {app: es}}
spec:
  containers: [{name: es, image: "testserver:1", imagePullPolicy: Never, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: es}
spec: {selector: {app: es}, ports: [{port: 9200, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: logs, emptyDir: {}}]
      containers:
      - name: shop
        image: testserver:1
        imagePullPolicy: Never
        command: [sh, -c, 'trap "exit 0" TERM; echo "up:$(hostname)" >> /logs/app.log; until [ -e /tmp/crash ]; do sleep 0.1; done; exit 1']
        volumeMounts: [{name: logs, mountPath: /logs}]
      - name: filebeat
        image: testserver:1
        imagePullPolicy: Never
        command: [sh, -c, 'trap "exit 0" TERM; touch /input/app.log; tail -f -n +1 /input/app.log | while read line; do until testserver fetch "http://es:9200/log?line=$line"; do sleep 0.2; done; done & wait']
        volumeMounts: [{name: logs, mountPath: /input, readOnly: false}]
"#;

fn rolled_out(instance: &Instance, flags: &[&str], name: &str) {
    let told = instance.kubectl(&[&["rollout", "status", name, "--timeout=60s"], flags].concat()).ok();
    assert!(told.contains("successfully rolled out"), "{told}");
}

/// The names of the Pods of an app that are not going.
fn pods(instance: &Instance, flags: &[&str], app: &str) -> Vec<String> {
    let each = "jsonpath={range .items[*]}{.metadata.name},{.metadata.deletionTimestamp} {end}";
    let label = format!("app={app}");
    let pods = instance.kubectl(&[&["get", "pods", "-l", &label, "-o", each], flags].concat()).ok();
    pods.split_whitespace().filter_map(|pod| pod.strip_suffix(',')).map(str::to_owned).collect()
}

/// The lines of this Pod that have arrived.
fn until_shipped(instance: &Instance, pod: &str, count: usize) {
    instance.eventually("the lines arrive", || {
        let log = instance.kubectl(&["logs", "es"]).ok();
        let found = log.lines().filter(|line| *line == format!("up:{pod}")).count();
        if found == count { Ok(()) } else { Err(format!("{found} of {count} for {pod} in\n{log}")) }
    });
}

#[test]
fn a_shipper_beside_each_service_sends_its_log_while_it_is_scaled_up_and_down() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(SHOP);
    instance.wait("condition=Ready", "pod/es");
    rolled_out(&instance, &[], "deploy/shop");
    let first = pods(&instance, &[], "shop").remove(0);
    until_shipped(&instance, &first, 1);

    instance.kubectl(&["scale", "deploy/shop", "--replicas=3"]).ok();
    rolled_out(&instance, &[], "deploy/shop");
    let all = pods(&instance, &[], "shop");
    assert!(all.len() == 3 && all.contains(&first), "{all:?}");
    all.iter().for_each(|pod| until_shipped(&instance, pod, 1));

    // The service falls; its log and the shipper stay with the Pod.
    instance.kubectl(&["exec", &first, "-c", "shop", "--", "touch", "/tmp/crash"]).ok();
    until_shipped(&instance, &first, 2);
    let restarts = r#"{.status.containerStatuses[?(@.name=="filebeat")].restartCount}"#;
    assert_eq!(instance.field(&format!("pod/{first}"), restarts), "0");

    instance.kubectl(&["scale", "deploy/shop", "--replicas=1"]).ok();
    instance.eventually("two go", || match &pods(&instance, &[], "shop")[..] {
        [left] if all.contains(left) => Ok(()),
        left => Err(format!("{left:?}")),
    });
    instance.kubectl(&["wait", "--for=jsonpath={.status.replicas}=1", "deploy/shop", "--timeout=60s"]).ok();
}

/// The manifest of the post, its Pod made the template of a Deployment. Its probes begin after half a minute and
/// its Pods reserve most of a machine's memory: here they are quicker and smaller.
fn service() -> String {
    let manifest = testdata("seeds/ad-web-impl.yaml")
        .replace("initialDelaySeconds: 30", "initialDelaySeconds: 0")
        .replace("periodSeconds: 10", "periodSeconds: 1")
        .replace("failureThreshold: 10", "failureThreshold: 1")
        .replace("3865470566400m", "38654705664m")
        .replace("terminationGracePeriodSeconds: 30", "terminationGracePeriodSeconds: 1");
    let (rest, pod) = manifest.rsplit_once("---\n").expect("several documents");
    let (_, spec) = pod.split_once("\nspec:\n").expect("a Pod");
    let spec: String = spec.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "{rest}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: ad-web-impl, namespace: coohua}}\nspec:\n  replicas: 2\n  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}\n  selector: {{matchLabels: {{app: ad-web-impl}}}}\n  template:\n    metadata: {{labels: {{app: ad-web-impl}}}}\n    spec:\n{spec}"
    )
}

/// The service in its namespace, with two Pods that serve.
struct Service {
    instance: Instance,
    first: Vec<String>,
}

const HERE: [&str; 2] = ["-n", "coohua"];

impl Service {
    fn start() -> Self {
        let instance = Instance::start(&["testserver.tar"]);
        instance.apply(&service());
        rolled_out(&instance, &HERE, "deploy/ad-web-impl");
        let first = pods(&instance, &HERE, "ad-web-impl");
        assert_eq!(first.len(), 2);
        Self { instance, first }
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.instance.kubectl(&[words, &HERE].concat()).ok()
    }

    /// A release that is told apart by its arguments.
    fn release(&self, arguments: &str) {
        let container = format!(r#"{{"name":"ad-web-impl","args":{arguments}}}"#);
        let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"containers":[{container}]}}}}}}}}"#);
        self.kubectl(&["patch", "deploy", "ad-web-impl", "-p", &patch]);
    }

    /// How many of the Pods that there are now were there at first.
    fn kept(&self) -> (usize, usize) {
        let now = pods(&self.instance, &HERE, "ad-web-impl");
        (self.first.iter().filter(|pod| now.contains(pod)).count(), now.len())
    }
}

#[test]
fn a_release_that_is_never_healthy_costs_no_pod_that_serves() {
    let service = Service::start();
    // It listens elsewhere than its probe asks.
    service.release(r#"["serve","--port","8081"]"#);
    service.instance.eventually("the new Pod is told unhealthy", || {
        let events = service.kubectl(&["get", "events", "--field-selector", "reason=Unhealthy"]);
        if events.contains("Readiness probe failed") { Ok(()) } else { Err(events) }
    });
    let counts = "jsonpath={.status.availableReplicas} {.status.updatedReplicas} {.status.replicas}";
    assert_eq!(service.kubectl(&["get", "deploy", "ad-web-impl", "-o", counts]), "2 1 3");
    assert_eq!(service.kept(), (2, 3));
    service.kubectl(&["rollout", "undo", "deploy/ad-web-impl"]);
    rolled_out(&service.instance, &HERE, "deploy/ad-web-impl");
    assert_eq!(service.kept(), (2, 2));
}

#[test]
fn a_release_that_takes_its_time_replaces_the_pods_as_it_becomes_healthy() {
    let service = Service::start();
    service.release(r#"["serve","--port","8080","--slow-start","2"]"#);
    rolled_out(&service.instance, &HERE, "deploy/ad-web-impl");
    assert_eq!(service.kept(), (0, 2));
}
