//! PostgreSQL of Debian as a StatefulSet: its data outlives its Pod, its absence and its node.

use crate::harness::Instance;
use crate::host::{instance_id, power_off};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: "not for others"}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: postgres, port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 30
      containers:
      - name: postgres
        image: postgres
        imagePullPolicy: IfNotPresent
        ports: [{name: postgres, containerPort: 5432}]
        env:
        - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
        - {name: POSTGRES_DB, value: shop}
        - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
        readinessProbe: {exec: {command: [pg_isready, -h, 127.0.0.1, -U, postgres, -d, shop]}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: postgres}, periodSeconds: 5, initialDelaySeconds: 10}
        resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 512Mi}}
        volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 100Mi}}}
"#;

/// Asks the server by name, with a password, as an application does.
const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  restartPolicy: Never
  containers:
  - name: psql
    image: postgres
    imagePullPolicy: IfNotPresent
    command: [psql, -h, db-0.db, -U, postgres, -d, shop, -Atc, "select sum(number) from orders"]
    env: [{name: PGPASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]
"#;

struct Database(Instance);

impl Database {
    fn sql(&self, statement: &str) -> String {
        let psql = ["exec", "db-0", "--", "psql", "-U", "postgres", "-d", "shop", "-v", "ON_ERROR_STOP=1"];
        self.0.kubectl(&[&psql[..], &["-Atc", statement]].concat()).ok().trim().to_owned()
    }

    /// The rows that were acknowledged are there, and there is room for one more.
    #[track_caller]
    fn keeps(&self, rows: usize) {
        self.0.kubectl(&["rollout", "status", "sts/db", "--timeout=60s"]).ok();
        self.0.wait("condition=Ready", "pod/db-0");
        assert_eq!(self.sql("select count(*) from orders"), rows.to_string());
        self.sql(&format!("insert into orders values ({})", rows + 1));
    }

    fn container(&self) -> String {
        self.0.field("pod/db-0", "{.status.containerStatuses[0].containerID}")
    }

    fn scale(&self, replicas: u8) {
        self.0.kubectl(&["scale", "sts/db", &format!("--replicas={replicas}")]).ok();
    }
}

#[test]
fn a_database_keeps_its_data_over_its_pod_a_pause_and_the_end_of_its_node() {
    let mut db = Database(Instance::start(&["postgres.tar"]));
    db.0.apply(MANIFEST);
    db.0.kubectl(&["rollout", "status", "sts/db", "--timeout=60s"]).ok();
    db.sql("create table orders (number int primary key)");
    db.keeps(0);

    db.0.kubectl(&["delete", "pod", "db-0"]).ok();
    db.keeps(1);
    let log = db.0.kubectl(&["logs", "db-0"]).ok() + &db.0.kubectl(&["logs", "db-0"]).err;
    assert!(!log.contains("database system was not properly shut down"), "it was let go in order: {log}");

    db.scale(0);
    db.0.kubectl(&["wait", "--for=delete", "pod/db-0", "--timeout=60s"]).ok();
    assert_eq!(db.0.field("pvc/data-db-0", "{.status.phase}"), "Bound");
    db.scale(1);
    db.keeps(2);

    let container = db.container();
    db.0.crash();
    db.0.up();
    db.keeps(3);
    assert_eq!(db.container(), container, "a database is not started again because the daemon was");

    // The power fails: nothing was told to end.
    db.0.crash();
    power_off(&instance_id(db.0.dir.path()), db.0.dir.path());
    db.0.up();
    db.0.eventually("another container", || match db.container() {
        now if now != container => Ok(()),
        now => Err(now),
    });
    db.keeps(4);

    db.0.apply(CLIENT);
    db.0.wait("jsonpath={.status.phase}=Succeeded", "pod/client");
    assert_eq!(db.0.kubectl(&["logs", "client"]).ok().trim(), (1..=5).sum::<u32>().to_string());
}
