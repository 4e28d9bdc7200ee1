//! Pods as upstream's error messages show them: Go's internal structs, printed as JSON.
//!
//! When an update is refused, upstream shows the difference of the two specs. It prints its internal types,
//! whose fields have Go's names and whose absent parts are null. [`TYPES`] says how each type looks, so that
//! our message has the same lines and line numbers.

use serde_json::{Map, Value, json};

/// Types by name: `GoName=jsonName:form` for each field in Go's order, where the form is `s` (text), `i`
/// (number), `b` (truth), `p` (pointer, or a list or map of plain values: null when absent), `q` (quantity),
/// `*T` (pointer to a struct), `[T` (list of structs), `T` (a struct), `^T` (an embedded struct, whose fields
/// are the holder's).
const TYPES: &[(&str, &str)] = &[
    (
        "PodSpec",
        "Volumes=volumes:[Volume InitContainers=initContainers:[Container Containers=containers:[Container EphemeralContainers=ephemeralContainers:[EphemeralContainer RestartPolicy=restartPolicy:s TerminationGracePeriodSeconds=terminationGracePeriodSeconds:p ActiveDeadlineSeconds=activeDeadlineSeconds:p DNSPolicy=dnsPolicy:s NodeSelector=nodeSelector:p ServiceAccountName=serviceAccountName:s AutomountServiceAccountToken=automountServiceAccountToken:p NodeName=nodeName:s SecurityContext=securityContext:*PodSecurityContext ImagePullSecrets=imagePullSecrets:[LocalObjectReference Hostname=hostname:s Subdomain=subdomain:s SetHostnameAsFQDN=setHostnameAsFQDN:p Affinity=affinity:*Affinity SchedulerName=schedulerName:s Tolerations=tolerations:[Toleration HostAliases=hostAliases:[HostAlias PriorityClassName=priorityClassName:s Priority=priority:p PreemptionPolicy=preemptionPolicy:p DNSConfig=dnsConfig:*PodDNSConfig ReadinessGates=readinessGates:[PodReadinessGate RuntimeClassName=runtimeClassName:p Overhead=overhead:p EnableServiceLinks=enableServiceLinks:p TopologySpreadConstraints=topologySpreadConstraints:[TopologySpreadConstraint OS=os:*PodOS SchedulingGates=schedulingGates:[PodSchedulingGate ResourceClaims=resourceClaims:[PodResourceClaim Resources=resources:*ResourceRequirements HostnameOverride=hostnameOverride:p SchedulingGroup=schedulingGroup:*PodSchedulingGroup",
    ),
    (
        "Volume",
        "Name=name:s HostPath=hostPath:*HostPath EmptyDir=emptyDir:*EmptyDir GCEPersistentDisk=gcePersistentDisk:p AWSElasticBlockStore=awsElasticBlockStore:p GitRepo=gitRepo:p Secret=secret:*SecretVolume NFS=nfs:*NFS ISCSI=iscsi:p Glusterfs=glusterfs:p PersistentVolumeClaim=persistentVolumeClaim:*Claim RBD=rbd:p Quobyte=quobyte:p FlexVolume=flexVolume:p Cinder=cinder:p CephFS=cephfs:p Flocker=flocker:p DownwardAPI=downwardAPI:*DownwardAPI FC=fc:p AzureFile=azureFile:p ConfigMap=configMap:*ConfigMapVolume VsphereVolume=vsphereVolume:p AzureDisk=azureDisk:p PhotonPersistentDisk=photonPersistentDisk:p Projected=projected:*Projected PortworxVolume=portworxVolume:p ScaleIO=scaleIO:p StorageOS=storageos:p CSI=csi:p Ephemeral=ephemeral:p Image=image:*ImageVolume",
    ),
    ("HostPath", "Path=path:s Type=type:p"),
    ("EmptyDir", "Medium=medium:s SizeLimit=sizeLimit:p"),
    ("NFS", "Server=server:s Path=path:s ReadOnly=readOnly:b"),
    ("Claim", "ClaimName=claimName:s ReadOnly=readOnly:b"),
    ("ImageVolume", "Reference=reference:s PullPolicy=pullPolicy:s"),
    (
        "SecretVolume",
        "SecretName=secretName:s Items=items:[KeyToPath DefaultMode=defaultMode:p Optional=optional:p",
    ),
    ("ConfigMapVolume", "Name=name:s Items=items:[KeyToPath DefaultMode=defaultMode:p Optional=optional:p"),
    ("KeyToPath", "Key=key:s Path=path:s Mode=mode:p"),
    ("DownwardAPI", "Items=items:[DownwardAPIFile DefaultMode=defaultMode:p"),
    (
        "DownwardAPIFile",
        "Path=path:s FieldRef=fieldRef:*FieldRef ResourceFieldRef=resourceFieldRef:*ResourceFieldRef Mode=mode:p",
    ),
    ("FieldRef", "APIVersion=apiVersion:s FieldPath=fieldPath:s"),
    ("ResourceFieldRef", "ContainerName=containerName:s Resource=resource:s Divisor=divisor:q"),
    ("Projected", "Sources=sources:[Projection DefaultMode=defaultMode:p"),
    (
        "Projection",
        "Secret=secret:*ObjectProjection DownwardAPI=downwardAPI:*DownwardAPIProjection ConfigMap=configMap:*ObjectProjection ServiceAccountToken=serviceAccountToken:*TokenProjection ClusterTrustBundle=clusterTrustBundle:*BundleProjection PodCertificate=podCertificate:p",
    ),
    ("ObjectProjection", "Name=name:s Items=items:[KeyToPath Optional=optional:p"),
    ("DownwardAPIProjection", "Items=items:[DownwardAPIFile"),
    ("TokenProjection", "Audience=audience:s ExpirationSeconds=expirationSeconds:i Path=path:s"),
    (
        "BundleProjection",
        "Name=name:p SignerName=signerName:p LabelSelector=labelSelector:p Optional=optional:p Path=path:s",
    ),
    (
        "Container",
        "Name=name:s Image=image:s Command=command:p Args=args:p WorkingDir=workingDir:s Ports=ports:[ContainerPort EnvFrom=envFrom:[EnvFrom Env=env:[EnvVar Resources=resources:ResourceRequirements ResizePolicy=resizePolicy:[ResizePolicy RestartPolicy=restartPolicy:p RestartPolicyRules=restartPolicyRules:[RestartRule VolumeMounts=volumeMounts:[VolumeMount VolumeDevices=volumeDevices:[VolumeDevice LivenessProbe=livenessProbe:*Probe ReadinessProbe=readinessProbe:*Probe StartupProbe=startupProbe:*Probe Lifecycle=lifecycle:*Lifecycle TerminationMessagePath=terminationMessagePath:s TerminationMessagePolicy=terminationMessagePolicy:s ImagePullPolicy=imagePullPolicy:s SecurityContext=securityContext:*SecurityContext Stdin=stdin:b StdinOnce=stdinOnce:b TTY=tty:b",
    ),
    ("EphemeralContainer", "=:^Container TargetContainerName=targetContainerName:s"),
    (
        "ContainerPort",
        "Name=name:s HostPort=hostPort:i ContainerPort=containerPort:i Protocol=protocol:s HostIP=hostIP:s",
    ),
    ("EnvFrom", "Prefix=prefix:s ConfigMapRef=configMapRef:*ObjectRef SecretRef=secretRef:*ObjectRef"),
    ("ObjectRef", "Name=name:s Optional=optional:p"),
    ("EnvVar", "Name=name:s Value=value:s ValueFrom=valueFrom:*EnvVarSource"),
    (
        "EnvVarSource",
        "FieldRef=fieldRef:*FieldRef ResourceFieldRef=resourceFieldRef:*ResourceFieldRef ConfigMapKeyRef=configMapKeyRef:*KeySelector SecretKeyRef=secretKeyRef:*KeySelector FileKeyRef=fileKeyRef:*FileKeySelector",
    ),
    ("KeySelector", "Name=name:s Key=key:s Optional=optional:p"),
    ("FileKeySelector", "VolumeName=volumeName:s Path=path:s Key=key:s Optional=optional:p"),
    ("ResourceRequirements", "Limits=limits:p Requests=requests:p Claims=claims:[ResourceClaim"),
    ("ResourceClaim", "Name=name:s Request=request:s"),
    ("ResizePolicy", "ResourceName=resourceName:s RestartPolicy=restartPolicy:s"),
    ("RestartRule", "Action=action:s ExitCodes=exitCodes:*ExitCodes"),
    ("ExitCodes", "Operator=operator:s Values=values:p"),
    (
        "VolumeMount",
        "Name=name:s ReadOnly=readOnly:b RecursiveReadOnly=recursiveReadOnly:p MountPath=mountPath:s SubPath=subPath:s MountPropagation=mountPropagation:p SubPathExpr=subPathExpr:s",
    ),
    ("VolumeDevice", "Name=name:s DevicePath=devicePath:s"),
    (
        "Probe",
        "Exec=exec:*Exec HTTPGet=httpGet:*HTTPGet TCPSocket=tcpSocket:*TCPSocket GRPC=grpc:*GRPC InitialDelaySeconds=initialDelaySeconds:i TimeoutSeconds=timeoutSeconds:i PeriodSeconds=periodSeconds:i SuccessThreshold=successThreshold:i FailureThreshold=failureThreshold:i TerminationGracePeriodSeconds=terminationGracePeriodSeconds:p",
    ),
    ("Exec", "Command=command:p"),
    ("HTTPGet", "Path=path:s Port=port:i Host=host:s Scheme=scheme:s HTTPHeaders=httpHeaders:[HTTPHeader"),
    ("HTTPHeader", "Name=name:s Value=value:s"),
    ("TCPSocket", "Port=port:i Host=host:s"),
    ("GRPC", "Port=port:i Service=service:p"),
    ("Sleep", "Seconds=seconds:i"),
    ("Lifecycle", "PostStart=postStart:*Hook PreStop=preStop:*Hook StopSignal=stopSignal:p"),
    ("Hook", "Exec=exec:*Exec HTTPGet=httpGet:*HTTPGet TCPSocket=tcpSocket:*TCPSocket Sleep=sleep:*Sleep"),
    (
        "SecurityContext",
        "Capabilities=capabilities:*Capabilities Privileged=privileged:p SELinuxOptions=seLinuxOptions:*SELinuxOptions WindowsOptions=windowsOptions:*WindowsOptions RunAsUser=runAsUser:p RunAsGroup=runAsGroup:p RunAsNonRoot=runAsNonRoot:p ReadOnlyRootFilesystem=readOnlyRootFilesystem:p AllowPrivilegeEscalation=allowPrivilegeEscalation:p ProcMount=procMount:p SeccompProfile=seccompProfile:*SeccompProfile AppArmorProfile=appArmorProfile:*SeccompProfile",
    ),
    ("Capabilities", "Add=add:p Drop=drop:p"),
    ("SELinuxOptions", "User=user:s Role=role:s Type=type:s Level=level:s"),
    (
        "WindowsOptions",
        "GMSACredentialSpecName=gmsaCredentialSpecName:p GMSACredentialSpec=gmsaCredentialSpec:p RunAsUserName=runAsUserName:p HostProcess=hostProcess:p",
    ),
    ("SeccompProfile", "Type=type:s LocalhostProfile=localhostProfile:p"),
    (
        "PodSecurityContext",
        "HostNetwork=hostNetwork:b HostPID=hostPID:b HostIPC=hostIPC:b ShareProcessNamespace=shareProcessNamespace:p HostUsers=hostUsers:p SELinuxOptions=seLinuxOptions:*SELinuxOptions WindowsOptions=windowsOptions:*WindowsOptions RunAsUser=runAsUser:p RunAsGroup=runAsGroup:p RunAsNonRoot=runAsNonRoot:p SupplementalGroups=supplementalGroups:p SupplementalGroupsPolicy=supplementalGroupsPolicy:p FSGroup=fsGroup:p FSGroupChangePolicy=fsGroupChangePolicy:p Sysctls=sysctls:[HTTPHeader SeccompProfile=seccompProfile:*SeccompProfile AppArmorProfile=appArmorProfile:*SeccompProfile SELinuxChangePolicy=seLinuxChangePolicy:p",
    ),
    ("LocalObjectReference", "Name=name:s"),
    (
        "Affinity",
        "NodeAffinity=nodeAffinity:*NodeAffinity PodAffinity=podAffinity:*PodAffinity PodAntiAffinity=podAntiAffinity:*PodAffinity",
    ),
    (
        "NodeAffinity",
        "RequiredDuringSchedulingIgnoredDuringExecution=requiredDuringSchedulingIgnoredDuringExecution:*NodeSelector PreferredDuringSchedulingIgnoredDuringExecution=preferredDuringSchedulingIgnoredDuringExecution:[PreferredTerm",
    ),
    ("NodeSelector", "NodeSelectorTerms=nodeSelectorTerms:[NodeSelectorTerm"),
    ("PreferredTerm", "Weight=weight:i Preference=preference:NodeSelectorTerm"),
    (
        "NodeSelectorTerm",
        "MatchExpressions=matchExpressions:[Requirement MatchFields=matchFields:[Requirement",
    ),
    ("Requirement", "Key=key:s Operator=operator:s Values=values:p"),
    (
        "PodAffinity",
        "RequiredDuringSchedulingIgnoredDuringExecution=requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm PreferredDuringSchedulingIgnoredDuringExecution=preferredDuringSchedulingIgnoredDuringExecution:[WeightedTerm",
    ),
    ("WeightedTerm", "Weight=weight:i PodAffinityTerm=podAffinityTerm:PodAffinityTerm"),
    (
        "PodAffinityTerm",
        "LabelSelector=labelSelector:p Namespaces=namespaces:p TopologyKey=topologyKey:s NamespaceSelector=namespaceSelector:p MatchLabelKeys=matchLabelKeys:p MismatchLabelKeys=mismatchLabelKeys:p",
    ),
    (
        "Toleration",
        "Key=key:s Operator=operator:s Value=value:s Effect=effect:s TolerationSeconds=tolerationSeconds:p",
    ),
    ("HostAlias", "IP=ip:s Hostnames=hostnames:p"),
    ("PodDNSConfig", "Nameservers=nameservers:p Searches=searches:p Options=options:[DNSOption"),
    ("DNSOption", "Name=name:s Value=value:p"),
    ("PodReadinessGate", "ConditionType=conditionType:s"),
    (
        "TopologySpreadConstraint",
        "MaxSkew=maxSkew:i TopologyKey=topologyKey:s WhenUnsatisfiable=whenUnsatisfiable:s LabelSelector=labelSelector:p MinDomains=minDomains:p NodeAffinityPolicy=nodeAffinityPolicy:p NodeTaintsPolicy=nodeTaintsPolicy:p MatchLabelKeys=matchLabelKeys:p",
    ),
    ("PodOS", "Name=name:s"),
    ("PodSchedulingGate", "Name=name:s"),
    (
        "PodResourceClaim",
        "Name=name:s ResourceClaimName=resourceClaimName:p ResourceClaimTemplateName=resourceClaimTemplateName:p",
    ),
    ("PodSchedulingGroup", "PodGroupName=podGroupName:p"),
];

/// The fields of a type in order: Go's name and the value.
type Fields = Vec<(&'static str, Shown)>;

/// A value as Go prints it; unlike JSON's own type it keeps the order of fields.
enum Shown {
    Plain(Value),
    List(Vec<Shown>),
    Struct(Fields),
}

/// A value of an internal type as JSON with Go's names (its fields in JSON's order, for short messages).
pub(super) fn value(type_name: &str, json: Value) -> Value {
    flatten(&show(type_name, &json))
}

/// A list of values of an internal type.
pub(super) fn list(type_name: &str, json: Value) -> Value {
    let items = json.as_array().cloned().unwrap_or_default();
    Value::Array(items.into_iter().map(|item| value(type_name, item)).collect())
}

/// A value of an internal type as indented text, as `json.MarshalIndent` with one space prints it.
pub(super) fn text(type_name: &str, json: Value) -> String {
    let json = if type_name == "PodSpec" { with_host_namespaces(json) } else { json };
    let mut out = String::new();
    print(&show(type_name, &json), 0, &mut out);
    out.push('\n');
    out
}

/// The internal Pod keeps the host's namespaces in its security context.
fn with_host_namespaces(mut spec: Value) -> Value {
    let names = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];
    let given: Vec<_> = names.iter().filter_map(|name| Some((*name, spec.get(*name)?.clone()))).collect();
    if let Some(fields) = spec.as_object_mut() {
        let context = fields.entry("securityContext").or_insert_with(|| json!({}));
        if let Some(context) = context.as_object_mut() {
            given.into_iter().for_each(|(name, value)| drop(context.insert(name.to_owned(), value)));
        }
    }
    spec
}

fn fields_of(type_name: &str) -> &'static str {
    TYPES.iter().find(|(name, _)| *name == type_name).map_or("", |(_, fields)| fields)
}

fn show(type_name: &str, json: &Value) -> Shown {
    let mut fields = Fields::new();
    for field in fields_of(type_name).split(' ').filter(|field| !field.is_empty()) {
        let Some((names, form)) = field.split_once(':') else { continue };
        let Some((go, name)) = names.split_once('=') else { continue };
        let given = json.get(name).filter(|value| !value.is_null());
        let shown = match (form.as_bytes()[0], given) {
            (b'^', _) => {
                if let Shown::Struct(embedded) = show(&form[1..], json) {
                    fields.extend(embedded);
                }
                continue;
            }
            (b'*', Some(value)) => show(&form[1..], value),
            (b'[', Some(Value::Array(items))) => {
                Shown::List(items.iter().map(|item| show(&form[1..], item)).collect())
            }
            (b's' | b'i' | b'b' | b'p' | b'q', Some(value)) if form.len() == 1 => Shown::Plain(value.clone()),
            (b's', None) if form.len() == 1 => Shown::Plain(json!("")),
            (b'i', None) if form.len() == 1 => Shown::Plain(json!(0)),
            (b'b', None) if form.len() == 1 => Shown::Plain(json!(false)),
            (b'q', None) if form.len() == 1 => Shown::Plain(json!("0")),
            (b'*' | b'[' | b'p', _) => Shown::Plain(Value::Null),
            (_, value) => show(form, value.unwrap_or(&Value::Null)),
        };
        fields.push((go, shown));
    }
    Shown::Struct(fields)
}

fn flatten(shown: &Shown) -> Value {
    match shown {
        Shown::Plain(value) => value.clone(),
        Shown::List(items) => Value::Array(items.iter().map(flatten).collect()),
        Shown::Struct(fields) => Value::Object(
            fields.iter().map(|(name, value)| ((*name).to_owned(), flatten(value))).collect::<Map<_, _>>(),
        ),
    }
}

fn print(shown: &Shown, depth: usize, out: &mut String) {
    match shown {
        Shown::Plain(value) => print_plain(value, depth, out),
        Shown::List(items) => block(('[', ']'), items.iter().map(|item| (None, item)), depth, out),
        Shown::Struct(fields) => {
            block(('{', '}'), fields.iter().map(|(name, v)| (Some(*name), v)), depth, out)
        }
    }
}

fn block<'a>(
    (open, close): (char, char),
    items: impl Iterator<Item = (Option<&'a str>, &'a Shown)>,
    depth: usize,
    out: &mut String,
) {
    out.push(open);
    let mut empty = true;
    for (name, item) in items {
        out.push_str(if empty { "\n" } else { ",\n" });
        empty = false;
        out.push_str(&" ".repeat(depth + 1));
        if let Some(name) = name {
            out.push_str(&format!("\"{name}\": "));
        }
        print(item, depth + 1, out);
    }
    if !empty {
        out.push('\n');
        out.push_str(&" ".repeat(depth));
    }
    out.push(close);
}

/// Lists and maps of plain values, printed like the rest.
fn print_plain(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) => {
            let items: Vec<Shown> = items.iter().cloned().map(Shown::Plain).collect();
            block(('[', ']'), items.iter().map(|item| (None, item)), depth, out);
        }
        Value::Object(entries) => {
            let items: Vec<(&str, Shown)> =
                entries.iter().map(|(key, value)| (key.as_str(), Shown::Plain(value.clone()))).collect();
            block(('{', '}'), items.iter().map(|(key, item)| (Some(*key), item)), depth, out);
        }
        plain => out.push_str(&crate::field::go_json(plain)),
    }
}
