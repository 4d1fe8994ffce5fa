//! PyTorch state dicts, as `torch.save(network.state_dict(), file)` writes them since 2020: a zip of a pickle and the bytes
//! of its tensors.
//!
//! libtorch's own reader takes only what C++ wrote. A pickle is a program, so this one knows the few words that a state
//! dict is written with, and refuses any other: nothing in the file can run.

mod pickle;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use tch::{Kind, TchError, Tensor};
use zip::{CompressionMethod, ZipArchive};

use self::pickle::{Stored, TensorSpec};

/// The pickle's name in its folder.
const PICKLE: &str = "data.pkl";

/// The largest pickle that is read: one of a network of 10,000 tensors takes less than 2 MB.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// Reads the tensors of a state dict, or of the `state_dict` or `model` in a checkpoint.
///
/// # Errors
///
/// Where the file is of another format or holds what no state dict needs; it says what to do.
pub(super) fn read(file: &Path) -> Result<Vec<(String, Tensor)>, TchError> {
    let told = |reason: String| TchError::FileFormat(format!("{}: {reason}", file.display()));
    let opened = File::open(file).map_err(|error| told(format!("cannot be read: {error}")))?;
    let mut archive = ZipArchive::new(opened).map_err(|_| {
        told(
            "is no state dict of PyTorch 1.6 or later; write it anew with torch.save(torch.load(FILE), NEW)".to_owned(),
        )
    })?;
    let prefix = prefix_of(&archive).ok_or_else(|| told("holds no data.pkl, so it is no state dict".to_owned()))?;
    if is_torchscript(&archive, &prefix) {
        return Err(told(
            "is TorchScript, which brings layers of its own: say architecture = \"torchscript\"".to_owned(),
        ));
    }
    if let Ok(order) = entry(&mut archive, &format!("{prefix}byteorder"), 16)
        && order != b"little"
    {
        return Err(told("was written on a big-endian machine".to_owned()));
    }
    let pickle = entry(&mut archive, &format!("{prefix}{PICKLE}"), MAX_PICKLE_BYTES);
    let text = pickle.map_err(|error| told(format!("data.pkl: {error}")))?;
    let specs = pickle::read(&text).map_err(told)?;
    let mut storages = HashMap::new();
    let mut tensors = Vec::with_capacity(specs.len());
    for (name, spec) in specs {
        let tensor = tensor(&mut archive, &prefix, &mut storages, &spec);
        tensors.push((name.clone(), tensor.map_err(|reason| told(format!("{name}: {reason}")))?));
    }
    Ok(tensors)
}

/// Whether a file is one, by what its archive lists.
pub(super) fn is_one(file: &Path) -> bool {
    let archive = File::open(file).ok().and_then(|file| ZipArchive::new(file).ok());
    archive.is_some_and(|archive| prefix_of(&archive).is_some_and(|prefix| !is_torchscript(&archive, &prefix)))
}

/// What the names in an archive of PyTorch begin with: the folder of its pickle.
fn prefix_of(archive: &ZipArchive<File>) -> Option<String> {
    let folder = |name: &str| name.strip_suffix(PICKLE).filter(|folder| folder.ends_with('/')).map(str::to_owned);
    archive.file_names().find_map(folder)
}

/// TorchScript has constants beside its pickle.
fn is_torchscript(archive: &ZipArchive<File>, prefix: &str) -> bool {
    archive.file_names().any(|name| name.strip_prefix(prefix) == Some("constants.pkl"))
}

/// Makes a tensor: a view of its storage, which is read once.
fn tensor(
    archive: &mut ZipArchive<File>,
    prefix: &str,
    storages: &mut HashMap<String, Tensor>,
    spec: &TensorSpec,
) -> Result<Tensor, String> {
    let Stored { key, kind, count } = &spec.storage;
    if !storages.contains_key(key) {
        let kind = kind_of(kind)?;
        let expected = count.checked_mul(kind.elt_size_in_bytes() as u64).ok_or("its storage is too large")?;
        let bytes = entry(archive, &format!("{prefix}data/{key}"), expected).map_err(|error| error.to_string())?;
        if bytes.len() as u64 != expected {
            return Err(format!("its storage has {} bytes instead of {expected}", bytes.len()));
        }
        let size = i64::try_from(*count).map_err(|_| "its storage is too large")?;
        let storage = Tensor::f_from_data_size(&bytes, &[size], kind).map_err(|error| error.to_string())?;
        storages.insert(key.clone(), storage);
    }
    let storage = &storages[key];
    if !spec.lies_within(*count) {
        return Err(format!("shape {:?} and strides {:?} reach beyond its storage", spec.size, spec.stride));
    }
    storage.f_as_strided(&spec.size, &spec.stride, spec.offset).map_err(|error| error.to_string())
}

/// Reads an entry of at most so many bytes; one byte more is read of a longer one, so that it shows. PyTorch stores them as
/// they are: one that is compressed, and could be far larger than the file, is not read.
fn entry(archive: &mut ZipArchive<File>, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let entry = archive.by_name(name)?;
    if entry.compression() != CompressionMethod::Stored {
        return Err(io::Error::other("it is compressed, which PyTorch's own never are"));
    }
    let mut bytes = Vec::new();
    entry.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn kind_of(storage: &str) -> Result<Kind, String> {
    Ok(match storage {
        "FloatStorage" => Kind::Float,
        "DoubleStorage" => Kind::Double,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        other => return Err(format!("its numbers are of a kind that is not known, {other}")),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use zip::ZipWriter;
    use zip::write::FileOptions;

    use super::*;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state-dict.pt")
    }

    #[test]
    fn what_pytorch_wrote_is_read() {
        let tensors: HashMap<String, Tensor> = read(&fixture()).unwrap().into_iter().collect();

        let numbers = |name: &str| {
            let tensor = tensors[name].to_kind(Kind::Float).contiguous().view([-1]);
            (tensors[name].size(), Vec::<f32>::try_from(tensor).unwrap())
        };
        assert_eq!(numbers("plain"), (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
        assert_eq!(numbers("turned"), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
        assert_eq!(numbers("part"), (vec![3], vec![3.0, 4.0, 5.0]));
        assert_eq!(numbers("half"), (vec![2], vec![0.5, -2.0]));
        assert_eq!(numbers("brain"), (vec![1], vec![1.5]));
        assert_eq!(numbers("counter"), (vec![], vec![7.0]));
        assert_eq!(numbers("learned"), (vec![2], vec![1.0, 1.0]));
        assert_eq!(tensors.len(), 7);
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_is_an_error_and_nothing_worse() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("spoilt.pt");
        let whole = std::fs::read(fixture()).unwrap();
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&file, &whole[..length]).unwrap();
            assert!(read(&file).is_err(), "{length} bytes");
        }
        for place in (0..whole.len()).step_by(13) {
            let mut spoilt = whole.clone();
            spoilt[place] ^= 0x5a;
            std::fs::write(&file, spoilt).unwrap();
            drop(read(&file)); // some bytes are of no matter
        }
    }

    #[test]
    fn an_entry_that_is_compressed_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("small.pt");
        let written = |method: CompressionMethod| {
            let mut archive = ZipWriter::new(File::create(&file).unwrap());
            archive.start_file("small/data.pkl", FileOptions::default().compression_method(method)).unwrap();
            archive.write_all(b"\x80\x02}.").unwrap(); // an empty dictionary
            archive.finish().unwrap();
            read(&file)
        };

        assert!(written(CompressionMethod::Stored).unwrap().is_empty());
        let said = written(CompressionMethod::DEFLATE).unwrap_err().to_string();
        assert!(said.contains("data.pkl: it is compressed"), "{said}");
    }

    #[test]
    fn another_format_is_told_with_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("old.pt");
        std::fs::write(&file, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();

        let said = read(&file).unwrap_err().to_string();

        assert!(said.contains("torch.save(torch.load(FILE), NEW)"), "{said}");
    }
}
