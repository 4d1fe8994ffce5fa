//! `results`: the outcomes of a batch.

use std::path::Path;

use tidemill_core::batch::Batch;
use tidemill_core::outcome::Status;
use tidemill_core::settings::Settings;

use crate::Vision;
use crate::args::{OrderArg, Results, Shared};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::follow::{Following, Kept, follow, is_well, must_be_in_input_order};
use crate::ledger::{FileForm, Form, Label, Whole};

/// Prints them, or writes them into a file.
pub(crate) fn results(
    args: &Results,
    shared: &Shared,
    settings: &Settings,
    vision: Option<Vision>,
) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    let following = Following {
        order: args.order.into(),
        format: args.format,
        from: args.from,
        limit: args.limit,
        waits: args.follow,
        is_patient: false,
        is_quiet: shared.is_quiet(),
    };
    let file = args.out.as_deref().map(|path| form_of(path, args.order)).transpose()?;
    crate::block_on(async {
        // What a finished file of this batch says of itself ends the command as it did before.
        let mut is_all_ok = false;
        let file = match file {
            None => None,
            Some((path, of)) => {
                let info = client.batch(&args.batch).await?;
                let form = form(of, &info.batch, settings, vision.as_ref())?;
                if args.resume
                    && let Some(whole) = Whole::find(path, &form, &Label::of(&info.batch))?
                {
                    let ended = whole.progress();
                    is_all_ok = is_well(&info.progress) && ended.count(Status::Ok) == ended.recorded();
                }
                Some((path.to_owned(), form))
            }
        };
        let Some(kept) = Kept::open(args.download.as_deref(), None, file, args.resume)? else {
            shared.say("the file of --out is complete; there is nothing to go on with");
            return Ok(if is_all_ok { Exit::Ok } else { Exit::NotAllOk });
        };
        kept.must_be_of(&client, &args.batch).await?;
        follow(&client, &args.batch, following, kept, std::future::ready(true)).await
    })
}

/// The form of the file that `--out` names.
fn form_of(path: &Path, order: OrderArg) -> Result<(&Path, FileForm), CliError> {
    must_be_in_input_order(order)?;
    let form = FileForm::of(path).ok_or_else(|| {
        let usage = CliError::usage(format!("--out: {} is no file for outcomes", path.display()));
        usage.hint("name one that ends in .ndjson, .parquet or .coco.json; the folder for produced files is --download")
    })?;
    Ok((path, form))
}

/// What it takes for the outcomes of this batch.
fn form(of: FileForm, batch: &Batch, settings: &Settings, vision: Option<&Vision>) -> Result<Form, CliError> {
    let register = crate::register(settings, None);
    let kind = register.find(&batch.task).map_err(|unknown| {
        CliError::usage(format!("--out: {unknown} here"))
            .hint("name a file that ends in .ndjson, or use the cluster's version")
    });
    let options = serde_json::from_str(batch.options.get()).unwrap_or_default();
    Form::of(of, kind?, &options, settings, vision)
}
