//! Print the state of a user's connection, or the reason why there is none.

use std::{env, error::Error, time::Duration};

use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;
use zoomgate::v1::{GetConnectionRequest, auth_service_client::AuthServiceClient};

mod zoomgate {
    pub mod v1 {
        tonic::include_proto!("zoomgate.v1");
    }
}

/// Sends the caller's key with each call.
fn authenticate(key: String) -> impl Interceptor {
    move |mut request: Request<()>| {
        if !key.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {key}"))
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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let user_email = env::args().nth(1).ok_or("usage: cargo run -- EMAIL")?;
    let target = env::var("ZOOMGATE_SERVER").unwrap_or("127.0.0.1:50051".into());
    let local = ["localhost:", "127.0.0.1:", "[::1]:"]
        .iter()
        .any(|prefix| target.starts_with(prefix));
    let channel = Endpoint::from_shared(format!(
        "{}://{target}",
        if local { "http" } else { "https" }
    ))?
    .tls_config(ClientTlsConfig::new().with_enabled_roots())?
    .timeout(Duration::from_secs(30))
    .http2_keep_alive_interval(Duration::from_secs(30))
    .connect()
    .await?;
    let key = env::var("ZOOMGATE_KEY").unwrap_or_default();
    let mut auth = AuthServiceClient::with_interceptor(channel, authenticate(key));
    match auth
        .get_connection(GetConnectionRequest { user_email })
        .await
    {
        Ok(response) => println!(
            "{:?}",
            response.into_inner().connection.unwrap_or_default().state()
        ),
        Err(status) => println!("{}", reason(&status).unwrap_or(status.to_string())),
    }
    Ok(())
}
