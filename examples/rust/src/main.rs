//! Connect a user's Zoom account, schedule a meeting, and delete it.

use std::{env, error::Error, process, time::Duration};

use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;
use zoomgate::v1::auth_service_client::AuthServiceClient;
use zoomgate::v1::connection::State;
use zoomgate::v1::meetings_service_client::MeetingsServiceClient;
use zoomgate::v1::watch_connections_response::Type;
use zoomgate::v1::*;

mod zoomgate {
    pub mod v1 {
        tonic::include_proto!("zoomgate.v1");
    }
}

type Auth = AuthServiceClient<InterceptedService<Channel, CallerKey>>;

/// Returns a channel that detects lost connections.
fn dial(target: &str) -> Result<Channel, transport::Error> {
    let local = ["localhost:", "127.0.0.1:", "[::1]:"]
        .iter()
        .any(|prefix| target.starts_with(prefix));
    let scheme = if local { "http" } else { "https" };
    Ok(Endpoint::from_shared(format!("{scheme}://{target}"))?
        .tls_config(ClientTlsConfig::new().with_enabled_roots())?
        .timeout(Duration::from_secs(30))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .connect_lazy())
}

/// Sends the caller's key with each call.
#[derive(Clone)]
struct CallerKey(String);

impl Interceptor for CallerKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {}", self.0))
                .map_err(|_| Status::unauthenticated("ZOOMGATE_KEY is not a key"))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Returns the reason of an error, if the error is from Zoomgate.
fn reason(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == "zoomgate")
        .map(|info| info.reason)
}

/// Returns whether the service is unavailable, has too many watches, or the stream was reset.
fn is_resumable(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::ResourceExhausted => true,
        Code::Internal | Code::Unknown => reason(status).is_none(), // tonic reports a lost connection as UNKNOWN
        _ => false,
    }
}

/// Returns a request with a deadline, which the service receives.
fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(30));
    request
}

/// The events of users. Dropping it ends the stream.
struct Watch {
    auth: Auth,
    request: WatchConnectionsRequest,
    stream: Option<Streaming<WatchConnectionsResponse>>,
}

impl Watch {
    fn new(auth: Auth, user_emails: Vec<String>) -> Self {
        let request = WatchConnectionsRequest {
            user_emails,
            ..Default::default()
        };
        Self {
            auth,
            request,
            stream: None,
        }
    }

    /// Waits for the next event. Resumes an interrupted stream after the last event.
    /// If the service cannot be reached before the first event, returns the error.
    async fn next(&mut self) -> Result<WatchConnectionsResponse, Status> {
        loop {
            let status = match self.read().await {
                Ok(event) => {
                    self.request.resume_token = event.resume_token.clone();
                    return Ok(event);
                }
                Err(status) => status,
            };
            self.stream = None;
            if reason(&status).as_deref() == Some("RESUME_TOKEN_EXPIRED") {
                self.request.resume_token.clear(); // the stream starts again with a snapshot
            } else if !self.request.resume_token.is_empty() && is_resumable(&status) {
                sleep(Duration::from_secs(1)).await;
            } else {
                return Err(status);
            }
        }
    }

    async fn read(&mut self) -> Result<WatchConnectionsResponse, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            closed => closed.insert(
                self.auth
                    .watch_connections(self.request.clone())
                    .await?
                    .into_inner(),
            ),
        };
        let event = stream.message().await?;
        event.ok_or(Status::unavailable("the stream ended"))
    }
}

/// Prints the URL with which the user consents, and returns when the user is connected.
async fn connect(mut auth: Auth, user_email: &str) -> Result<(), Status> {
    let mut watch = Watch::new(auth.clone(), vec![user_email.into()]);
    let mut authorized = false;
    loop {
        let event = watch.next().await?;
        let kind = event.r#type();
        println!("{}", kind.as_str_name());
        if event
            .connection
            .is_some_and(|connection| connection.state() == State::Active)
        {
            return Ok(());
        }
        if kind == Type::Synced && !authorized {
            let request = BeginAuthorizationRequest {
                user_email: user_email.into(),
                ..Default::default()
            };
            let begun = auth.begin_authorization(unary(request)).await?.into_inner();
            println!(
                "{user_email} must open this URL: {}",
                begun.authorization_url
            );
            authorized = true;
        }
    }
}

async fn run(channel: Channel, key: CallerKey, user_email: String) -> Result<(), Status> {
    let auth = AuthServiceClient::with_interceptor(channel.clone(), key.clone());
    timeout(Duration::from_secs(600), connect(auth, &user_email)) // the URL is valid for 10 minutes
        .await
        .map_err(|_| Status::deadline_exceeded("the user did not consent within 10 minutes"))??;

    let mut meetings = MeetingsServiceClient::with_interceptor(channel, key);
    let created = meetings
        .create_meeting(unary(CreateMeetingRequest {
            user_email: user_email.clone(),
            meeting_details: Some(MeetingDetails {
                topic: Some("Planning".into()),
                duration_minutes: Some(45),
                ..Default::default()
            }),
            ..Default::default()
        }))
        .await?;
    let meeting = created.into_inner().meeting.unwrap_or_default();
    println!("created meeting {}: {}", meeting.id, meeting.join_url);

    meetings
        .delete_meeting(unary(DeleteMeetingRequest {
            user_email: user_email.clone(),
            meeting_id: meeting.id,
            ..Default::default()
        }))
        .await?;
    let request = GetMeetingRequest {
        user_email,
        meeting_id: meeting.id,
        ..Default::default()
    };
    match meetings.get_meeting(unary(request)).await {
        Err(status) if reason(&status).as_deref() == Some("MEETING_NOT_FOUND") => {
            println!("deleted the meeting");
            Ok(())
        }
        Err(status) => Err(status),
        Ok(_) => Err(Status::internal("the meeting still exists")),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let user_email = env::args().nth(1).ok_or("usage: cargo run -- EMAIL")?;
    let channel = dial(&env::var("ZOOMGATE_SERVER").unwrap_or("127.0.0.1:50051".into()))?;
    let key = CallerKey(env::var("ZOOMGATE_KEY").unwrap_or_default());
    if let Err(status) = run(channel, key, user_email).await {
        match reason(&status) {
            Some(reason) => eprintln!("{reason}: {}", status.message()),
            None => eprintln!("{status}"),
        }
        process::exit(1);
    }
    Ok(())
}
