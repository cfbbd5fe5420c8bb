//! `echogen models show`: prints a bundle's manifest, and which files exist.

use super::{Output, bytes_present, human};
use echogen_checkpoint::bundle::{Bundle, FileManifest, Manifest, Network, NetworkManifest, Presence};
use echogen_service::Exit;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The output for programs: the manifest, and the state of the files on this machine.
#[derive(Serialize)]
struct Shown<'a> {
    manifest: &'a Manifest,
    manifest_path: &'a Path,
    weights_folder: &'a Path,
    presence: BTreeMap<&'static str, &'static str>,
}

pub(super) fn show(bundle: &Bundle, output: &mut Output) -> anyhow::Result<Exit> {
    let presence = bundle.manifest().networks().map(|(network, _)| (network.name(), presence(bundle, network)));
    let shown = Shown {
        manifest: bundle.manifest(),
        manifest_path: bundle.manifest_path(),
        weights_folder: bundle.weights_folder(),
        presence: presence.collect(),
    };
    output.answer(&shown, text(bundle)?.trim_end())?;
    Ok(Exit::Success)
}

fn presence(bundle: &Bundle, network: Network) -> &'static str {
    match bundle.presence(network) {
        Presence::Complete => "complete",
        Presence::Partial => "partial",
        Presence::Absent => "absent",
    }
}

fn text(bundle: &Bundle) -> Result<String, std::fmt::Error> {
    let (manifest, sampling) = (bundle.manifest(), &bundle.manifest().sampling);
    let mut text = String::new();
    writeln!(text, "{}: {}", manifest.name, manifest.description)?;
    writeln!(text, "licence   {}", manifest.licence)?;
    writeln!(text, "manifest  {}", bundle.manifest_path().display())?;
    writeln!(text, "weights   {}", bundle.weights_folder().display())?;
    writeln!(
        text,
        "sampling  guidance {} by text, {} by subject; temperature {}, top-k {}, top-p {}, seed {}",
        sampling.guidance_text,
        sampling.guidance_subject,
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.seed
    )?;
    let budgets = sampling.subject_resolution.iter().map(|(budget, side)| format!("{budget} (subject {side} px)"));
    let budgets = budgets.collect::<Vec<_>>().join(", ");
    writeln!(text, "pixels    {budgets}; {} unless a job says otherwise", sampling.pixel_budget)?;
    for (network, table) in manifest.networks() {
        network_text(&mut text, bundle, network, table)?;
    }
    Ok(text)
}

fn network_text(text: &mut String, bundle: &Bundle, network: Network, table: &NetworkManifest) -> std::fmt::Result {
    let optional = if network.is_optional() { ", optional" } else { "" };
    let size = human(bytes_present(bundle, network));
    writeln!(text, "\n{network} ({}{optional}, {size})", presence(bundle, network))?;
    for file in &table.files {
        file_text(text, bundle, file)?;
    }
    Ok(())
}

fn file_text(text: &mut String, bundle: &Bundle, file: &FileManifest) -> std::fmt::Result {
    let mark = if bundle.path_of(file).is_file() { "+" } else { "-" };
    write!(text, "  {mark} {}  {}", file.path, file.licence)?;
    if let Some(repository) = &file.repository {
        write!(text, "  from {repository}/{} at {}", file.source(), file.revision())?;
    }
    match &file.sha256 {
        Some(sum) => writeln!(text, "  sha256 {sum}"),
        None => writeln!(text, "  no published sum"),
    }
}
