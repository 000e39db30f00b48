// SPDX-License-Identifier: Apache-2.0
// Axum over hyper and rustls, as they come. Usage: axumshop PORT CERTIFICATE KEY
use axum::{body::Bytes, extract::Path, extract::Request, http::StatusCode, middleware, response::Response, routing, Router};
use std::{env, net::SocketAddr, time::Duration};

async fn log(request: Request, next: middleware::Next) -> Response {
    let line = format!("\"{} {} {:?}\"", request.method(), request.uri().path_and_query().unwrap(), request.version());
    let response = next.run(request).await;
    println!("{line} {}", response.status().as_u16());
    response
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().collect();
    let app = Router::new()
        .route("/hello", routing::get(|| async { "hello\n" }))
        .route("/users/{number}", routing::get(|Path(number): Path<String>| async { number }))
        .route("/echo", routing::post(|body: Bytes| async { body }))
        .route("/boom", routing::get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/slow", routing::get(|| async { tokio::time::sleep(Duration::from_millis(30)).await; "at last\n" }))
        .route("/stream", routing::get(|| async { "x".repeat(65536) }))
        .layer(middleware::from_fn(log));
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let tls = axum_server::tls_rustls::RustlsConfig::from_pem_file(&arguments[2], &arguments[3]).await.unwrap();
    let address: SocketAddr = format!("127.0.0.1:{}", arguments[1]).parse().unwrap();
    axum_server::bind_rustls(address, tls).serve(app.into_make_service()).await.unwrap();
}
