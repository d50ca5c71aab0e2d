use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use rand::TryRngCore;
use rand::rngs::OsRng;
use vqa_infer::serve::{Gallery, ServeOptions, Server};
use vqa_infer::{Answerer, Checkpoint};
use vqa_model::device::parse_device;

use crate::args::ServeArgs;
use crate::commands::answering;
use crate::interrupt::{Graceful, Stopped};
use crate::terminal::{print, say};

pub fn run(args: &ServeArgs) -> Result<()> {
    let device = args.device.as_deref().map(parse_device).transpose()?;
    let checkpoint = Checkpoint::open(&args.checkpoint, device)?;
    let gallery = match &args.data {
        Some(data) => {
            let (config, split) = answering::split_of(&checkpoint, data, args.config.as_deref())?;
            Some(Gallery::open(split, config.split(data)?, &config.place(data), &checkpoint)?)
        }
        None => None,
    };
    let (checkpoint, extractor) = if checkpoint.header().extractor.is_some() {
        let (checkpoint, extractor) = Answerer::of(checkpoint, args.weights.as_deref())?.into_parts();
        (checkpoint, Some(extractor))
    } else if gallery.is_some() {
        if let Some(weights) = &args.weights {
            bail!(
                "{}: its training features do not record how they were extracted, so there is no use for {}: leave out \
                 --weights",
                checkpoint.path().display(),
                weights.display()
            );
        }
        say!(
            "the model's training features do not record how they were extracted: only images of the split can be \
             asked about"
        );
        (checkpoint, None)
    } else {
        bail!(
            "{}: its training features do not record how they were extracted, so it can only be asked about images of \
             a split: name one with --data",
            checkpoint.path().display()
        );
    };
    let is_open = !args.host.is_loopback();
    let token = match &args.token {
        None if is_open => Some(random_token()?),
        given => given.clone(),
    };
    let options = ServeOptions {
        host: args.host,
        port: args.port,
        token: token.clone(),
        max_batch: args.max_batch as usize,
        collect: args.collect.clone(),
        ..ServeOptions::default()
    };
    let name = checkpoint.name();
    let server = Server::bind(checkpoint, extractor, gallery, &options)?;
    if is_open {
        say!(
            "warning: anyone who can reach this computer and has the token can use the server, and the traffic is not \
             encrypted"
        );
    }
    let stop = Graceful::new("answering pending requests; press Ctrl-C again to stop at once");
    print(&format!("{name} at {} (Ctrl-C ends it)", page(server.address(), token.as_deref())))?;
    let said = match server.run(stop.flag())? {
        true => "stopped; all pending requests were answered",
        false => "stopped; some requests took too long to be answered",
    };
    Err(Stopped(said.to_owned()).into())
}

/// The address of the page, for a browser on this computer.
fn page(address: SocketAddr, token: Option<&str>) -> String {
    let host = match address.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    let token = token.map(|token| format!("?token={token}")).unwrap_or_default();
    format!("http://{host}:{}/{token}", address.port())
}

/// A token of 128 random bits, in hexadecimal.
fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
