fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../proto";
    println!("cargo::rerun-if-changed={proto}");
    let files = protox::compile(
        [
            "zoomgate/v1/auth_service.proto",
            "zoomgate/v1/meetings_service.proto",
        ],
        [proto],
    )?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(files)?;
    Ok(())
}
