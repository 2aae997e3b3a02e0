//! `candlewick pull`: fetches models, and prints the folder of each.

use anyhow::Result;

use crate::args::PullArgs;
use crate::fetch;
use crate::output::to_stdout;

pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let registry = fetch::registry(args.fetch.registry.as_deref())?;
    // A name that is wrong is noticed before anything is downloaded.
    let specs = args.ids.iter().map(|id| registry.get(id)).collect::<candlewick::Result<Vec<_>>>()?;
    for spec in specs {
        let options = fetch::options(&args.fetch, registry.clone(), spec.chosen_sources().count());
        let folder = candlewick::pull(&spec.id, &options)?;
        to_stdout(|out| {
            out.write_all(folder.as_os_str().as_encoded_bytes())?;
            out.write_all(b"\n")
        })?;
    }
    Ok(())
}
