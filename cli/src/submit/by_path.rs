//! By path: workers that see the same folders are told where files lie, whatever folder they run in themselves.

use async_trait::async_trait;
use tidemill_core::failure::Failure;
use tidemill_core::task::Arguments;
use tidemill_producer::inputs::Input;
use tidemill_producer::{NotReady, Ready};

use super::upload::local_path;

/// Names each file by its whole path. The input itself stays as it was written, as where files are uploaded.
#[derive(Debug)]
pub(super) struct ByPath {
    /// What inputs of the task are: a text is no file.
    pub(super) arguments: Arguments,
}

#[async_trait]
impl Ready for ByPath {
    async fn ready(&self, input: &mut Input) -> Result<(), NotReady> {
        let Some(path) = local_path(input, self.arguments).filter(|path| path.is_relative()) else { return Ok(()) };
        match std::path::absolute(&path).map(|path| path.into_os_string().into_string()) {
            Ok(Ok(whole)) => input.source = Some(whole.into()),
            Ok(Err(whole)) => {
                let message = format!("the path of {} is not UTF-8: {}", path.display(), whole.display());
                input.refused = Some(Failure::invalid_input(message));
            }
            Err(error) => {
                let message = format!("cannot tell where {} lies: {error}", path.display());
                input.refused = Some(Failure::permanent("unreadable", message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_core::task::raw;

    use super::*;

    #[tokio::test]
    async fn what_lies_in_this_folder_is_named_by_its_whole_path() {
        let here = std::env::current_dir().unwrap();
        let whole = |path: &str| Some(here.join(path).display().to_string());
        for (arguments, input, source) in [
            (Arguments::Files, json!("a/b.jpg"), whole("a/b.jpg")),
            (Arguments::Files, json!("./b.jpg"), whole("b.jpg")),
            (Arguments::FilesOrValues, json!({"path": "b.txt"}), whole("b.txt")),
            (Arguments::FilesOrValues, json!("b.txt"), None),
            (Arguments::Files, json!("/a/b.jpg"), None),
            (Arguments::Files, json!("file:///a/b.jpg"), None),
            (Arguments::Files, json!("https://example.org/b.jpg"), None),
        ] {
            let mut given = Input::value(raw(&input));

            ByPath { arguments }.ready(&mut given).await.unwrap();

            assert_eq!(given.source.as_deref(), source.as_deref(), "{input}");
            assert_eq!(given.json.get(), input.to_string());
        }
    }
}
