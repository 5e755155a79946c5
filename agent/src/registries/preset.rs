//! How each kind of registry is told, by its own documented interface.

use std::path::PathBuf;

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Subject, Told,
    http::{Ask, Endpoint, check_url},
};

/// A kind of registry with its parameters.
pub(super) trait Preset {
    /// Whether its parameters make sense.
    fn check(&self) -> Result<(), String>;

    /// What is to be done.
    fn way(&self, told: Told, fill: &Fill<'_>) -> Result<Way, String>;

    /// Whether it is asked over HTTP.
    fn is_http(&self) -> bool {
        true
    }
}

/// Something to be done.
pub(super) enum Way {
    Ask(Ask),
    /// The second request is made from the answer to the first: what it does not repeat would be lost.
    Nacos {
        read: Ask,
        write: Ask,
    },
    Execute(Vec<String>),
    RemoveFile(PathBuf),
    RestoreFile(PathBuf),
}

/// Fills in what differs from service to service. `{ip}` is filled in when a request is sent.
pub(super) struct Fill<'a>(pub(super) &'a Subject);

impl Fill<'_> {
    fn text(&self, text: &str) -> Result<String, String> {
        let Subject { service, pod } = self.0;
        let text = text.replace("{port}", &service.port.to_string());
        match pod {
            Some(pod) => {
                Ok(text.replace("{pod}", &pod.name).replace("{namespace}", &pod.namespace))
            }
            None if text.contains("{pod}") || text.contains("{namespace}") => Err(format!(
                "{text:?} names the pod, and it is not known which pod {service} is in"
            )),
            None => Ok(text),
        }
    }

    /// As part of a path or a query (RFC 3986, section 2.3). Braces stay for `{ip}`.
    fn encoded(&self, text: &str) -> Result<String, String> {
        Ok(encode(&self.text(text)?.replace("{ip}", "\0")).replace("%00", "{ip}"))
    }
}

fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn given(name: &str, value: &str) -> Result<(), String> {
    if value.is_empty() { Err(format!("`{name}` is empty")) } else { Ok(()) }
}

macro_rules! endpoint {
    ($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(super) struct $name {
            url: String,
            #[serde(default)]
            ca_file: Option<PathBuf>,
            #[serde(default)]
            headers_file: Option<PathBuf>,
            $($(#[$meta])* $field: $type,)*
        }

        impl $name {
            fn endpoint(&self) -> Endpoint {
                let Self { url, ca_file, headers_file, .. } = self.clone();
                Endpoint { url, ca_file, headers_file }
            }
        }
    };
}

endpoint! {
    /// Maintenance mode of a service, at the Consul agent that it is registered with.
    Consul { service_id: String, }
}

impl Preset for Consul {
    fn check(&self) -> Result<(), String> {
        given("service-id", &self.service_id)?;
        self.endpoint().check()
    }

    fn way(&self, told: Told, fill: &Fill<'_>) -> Result<Way, String> {
        let id = fill.encoded(&self.service_id)?;
        let enable = told == Told::Drain;
        let rest = format!(
            "/v1/agent/service/maintenance/{id}?enable={enable}&reason=drained%20by%20drainctl"
        );
        Ok(Way::Ask(self.endpoint().ask(Method::PUT, &rest)))
    }
}

endpoint! {
    /// The overridden status of an instance. Taking it away brings back what the instance says of itself.
    Eureka { app: String, instance_id: String, }
}

impl Preset for Eureka {
    fn check(&self) -> Result<(), String> {
        given("app", &self.app)?;
        given("instance-id", &self.instance_id)?;
        self.endpoint().check()
    }

    fn way(&self, told: Told, fill: &Fill<'_>) -> Result<Way, String> {
        let (app, id) = (fill.encoded(&self.app)?, fill.encoded(&self.instance_id)?);
        let (method, value) = match told {
            Told::Drain => (Method::PUT, "OUT_OF_SERVICE"),
            Told::Undrain => (Method::DELETE, "UP"),
        };
        let rest = format!("/apps/{app}/{id}/status?value={value}");
        Ok(Way::Ask(self.endpoint().ask(method, &rest)))
    }
}

endpoint! {
    /// The endpoint `serviceregistry` of Spring Cloud, which has the server itself tell its registry.
    Actuator {}
}

impl Preset for Actuator {
    fn check(&self) -> Result<(), String> {
        check_url(&self.url, self.ca_file.as_deref())?;
        self.endpoint().check()
    }

    fn way(&self, told: Told, fill: &Fill<'_>) -> Result<Way, String> {
        let status = match told {
            Told::Drain => "OUT_OF_SERVICE",
            Told::Undrain => "UP",
        };
        let endpoint = Endpoint { url: fill.text(&self.url)?, ..self.endpoint() };
        let mut ask = endpoint.ask(Method::POST, "/serviceregistry");
        let kind = "application/json".to_owned();
        ask.body = Some((kind, format!(r#"{{"status":"{status}"}}"#)));
        Ok(Way::Ask(ask))
    }
}

fn default_cluster() -> String {
    "DEFAULT".into()
}

fn default_group() -> String {
    "DEFAULT_GROUP".into()
}

fn default_namespace() -> String {
    "public".into()
}

fn here() -> String {
    "{ip}".into()
}

fn itself() -> String {
    "{port}".into()
}

fn yes() -> bool {
    true
}

endpoint! {
    /// An instance that is enabled or not.
    Nacos {
        service: String,
        #[serde(default = "default_group")] group: String,
        #[serde(default = "default_namespace")] namespace_id: String,
        #[serde(default = "default_cluster")] cluster: String,
        #[serde(default = "here")] ip: String,
        #[serde(default = "itself")] port: String,
        #[serde(default = "yes")] ephemeral: bool,
        #[serde(default)] api: NacosApi,
    }
}

/// Which of Nacos' interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum NacosApi {
    /// Nacos 1 and 2.
    #[default]
    V1,
    /// Nacos 2.2 and later.
    V2,
    /// Nacos 3.
    V3,
}

impl NacosApi {
    fn path(self) -> &'static str {
        match self {
            Self::V1 => "/v1/ns/instance",
            Self::V2 => "/v2/ns/instance",
            Self::V3 => "/v3/admin/ns/instance",
        }
    }
}

impl Preset for Nacos {
    fn check(&self) -> Result<(), String> {
        given("service", &self.service)?;
        self.endpoint().check()
    }

    fn way(&self, told: Told, fill: &Fill<'_>) -> Result<Way, String> {
        let parameters = [
            ("serviceName", &self.service),
            ("groupName", &self.group),
            ("namespaceId", &self.namespace_id),
            ("ip", &self.ip),
            ("port", &self.port),
            ("clusterName", &self.cluster),
        ];
        let one = |(name, value): (&str, &String)| Ok(format!("{name}={}", fill.encoded(value)?));
        let query: Result<Vec<String>, String> = parameters.into_iter().map(one).collect();
        let (query, path) = (query?.join("&"), self.api.path());
        let enabled = told == Told::Undrain;
        let change = format!("{path}?{query}&ephemeral={}&enabled={enabled}", self.ephemeral);
        let endpoint = self.endpoint();
        Ok(Way::Nacos {
            read: endpoint.ask(Method::GET, &format!("{path}?{query}")),
            write: endpoint.ask(Method::PUT, &change),
        })
    }
}

/// Has the change repeat what the instance has: an update without it takes it away.
pub(super) fn nacos_keeps(write: &mut Ask, answer: &[u8]) -> Result<(), String> {
    let answer: Value = serde_json::from_slice(answer)
        .map_err(|error| format!("{write}: the instance cannot be read: {error}"))?;
    // From the second version on it is wrapped.
    let instance = answer.get("data").unwrap_or(&answer);
    if let Some(weight) = instance.get("weight").and_then(Value::as_f64) {
        write.url += &format!("&weight={weight}");
    }
    if let Some(metadata) = instance.get("metadata").filter(|metadata| metadata.is_object()) {
        write.url += &format!("&metadata={}", encode(&metadata.to_string()));
    }
    Ok(())
}

/// Requests of the admin's own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Http {
    drain: HttpRequest,
    undrain: HttpRequest,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    headers_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct HttpRequest {
    method: String,
    url: String,
    #[serde(default)]
    body: Option<String>,
    #[serde(default = "json")]
    content_type: String,
}

fn json() -> String {
    "application/json".into()
}

impl Preset for Http {
    fn check(&self) -> Result<(), String> {
        for HttpRequest { method, url, content_type, .. } in [&self.drain, &self.undrain] {
            check_url(url, self.ca_file.as_deref())?;
            method.parse::<Method>().map_err(|_| format!("{method:?} is no method of HTTP"))?;
            let kind = hyper::header::HeaderValue::from_str(content_type);
            kind.map_err(|_| format!("{content_type:?} is no content type"))?;
        }
        Ok(())
    }

    fn way(&self, told: Told, fill: &Fill<'_>) -> Result<Way, String> {
        let request = match told {
            Told::Drain => &self.drain,
            Told::Undrain => &self.undrain,
        };
        let body = request.body.as_ref().map(|body| fill.text(body)).transpose()?;
        Ok(Way::Ask(Ask {
            method: request.method.parse().map_err(|_| "it is no method of HTTP")?,
            url: fill.text(&request.url)?,
            ca_file: self.ca_file.clone(),
            headers_file: self.headers_file.clone(),
            body: body.map(|body| (request.content_type.clone(), body)),
        }))
    }
}

/// A program and its arguments. It is told by its environment what it is about.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    command: Vec<String>,
}

impl Preset for Exec {
    fn check(&self) -> Result<(), String> {
        match self.command.first() {
            Some(program) if program.starts_with('/') => Ok(()),
            _ => Err("`command` is a list of the program's whole path and its arguments".into()),
        }
    }

    fn way(&self, _: Told, _: &Fill<'_>) -> Result<Way, String> {
        Ok(Way::Execute(self.command.clone()))
    }

    fn is_http(&self) -> bool {
        false
    }
}

/// A file that is there while the server is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusFile {
    path: PathBuf,
}

impl Preset for StatusFile {
    fn check(&self) -> Result<(), String> {
        let file = self.path.is_absolute() && self.path.file_name().is_some();
        if file { Ok(()) } else { Err("`path` is the whole path of a file".into()) }
    }

    fn way(&self, told: Told, fill: &Fill<'_>) -> Result<Way, String> {
        let path = fill.text(&self.path.to_string_lossy())?.into();
        Ok(match told {
            Told::Drain => Way::RemoveFile(path),
            Told::Undrain => Way::RestoreFile(path),
        })
    }

    fn is_http(&self) -> bool {
        false
    }
}
