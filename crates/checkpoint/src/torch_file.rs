//! PyTorch's `.pth` format: a zip archive with `data.pkl` (names, shapes, strides) and one stored entry per storage.
//!
//! The keys of nested dictionaries are joined by dots. Numbers, text, lists and unknown objects are skipped, because
//! no code of the file is executed. Tensors may share a storage.

use crate::mapped::MappedFile;
use crate::pickle::{Pickle, Place, Value};
use crate::stored::{MAX_DIMENSIONS, StoredTensor, StoredType};
use crate::{CheckpointError, Tensors};
use echogen_protocol::text::quoted;
use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Maximum nesting depth of dictionaries. Published checkpoints have at most three levels.
const MAX_DEPTH: usize = 16;
/// Steps of the traversal for each byte of the pickle. A dictionary can be referenced in two bytes, so nothing else bounds
/// how often its entries are visited.
const STEPS_PER_BYTE: usize = 4;
/// Bytes of memory for each byte of the file that its values and the names and positions of its tensors may take, and
/// bytes that those of any file may take. PyTorch's writer needs over 60 bytes for each tensor, plus its storage.
const MEMORY_PER_BYTE: usize = 8;
const MEMORY_SPARE: usize = 64 << 10;
/// Bytes that one tensor takes beside its name: its entry in the table, which is half full, and its shape and strides.
const TENSOR_BYTES: usize = 2 * size_of::<(String, StoredTensor)>() + 64;
/// Maximum length of the name of a storage in bytes. Those of PyTorch are numbers.
const MAX_STORAGE_NAME_BYTES: usize = 256;
/// Most arguments of a function that rebuilds a tensor.
const MAX_ARGUMENTS: usize = 16;

pub(crate) fn open(path: &Path, tensors: &mut Tensors) -> Result<(), CheckpointError> {
    let file = Arc::new(MappedFile::open(path)?);
    let malformed = |reason: String| CheckpointError::malformed(path, reason);
    let archive = Archive::open(&file).map_err(malformed)?;
    let bytes = archive.pickle(file.bytes()).map_err(malformed)?;
    let pickle = Pickle::read(bytes).map_err(malformed)?;
    let root = pickle.root();
    if pickle.get(root) != Value::Dict {
        return Err(malformed("it holds no dictionary of tensors; save `model.state_dict()`".to_owned()));
    }
    let memory = file.bytes().len().saturating_mul(MEMORY_PER_BYTE).saturating_add(MEMORY_SPARE);
    let memory = memory.saturating_sub(pickle.memory());
    let mut walk = Walk { file: &file, archive, pickle, steps: STEPS_PER_BYTE.saturating_mul(bytes.len()), memory };
    walk.dictionary(root, "", 0, tensors)
}

/// The uncompressed entries of a zip archive, as ranges of the file.
struct Archive {
    entries: HashMap<String, Range<usize>>,
    /// The prefix of `data.pkl` in the archive, which is the folder of all entries.
    folder: String,
}

impl Archive {
    fn open(file: &MappedFile) -> Result<Self, String> {
        if !file.bytes().starts_with(b"PK") {
            let legacy = file.bytes().starts_with(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P");
            let reason = if legacy { "it is in PyTorch's format from before 1.6" } else { "it is no zip archive" };
            return Err(format!("{reason}; load it in PyTorch and save it again with torch.save"));
        }
        let mut zip = zip::ZipArchive::new(Cursor::new(file.bytes())).map_err(|error| format!("its zip: {error}"))?;
        let mut entries = HashMap::with_capacity(zip.len());
        for index in 0..zip.len() {
            let (name, range) = entry(&mut zip, index, file.bytes().len())?;
            if entries.insert(name.clone(), range).is_some() {
                return Err(format!("its zip has two entries named {}", quoted(&name)));
            }
        }
        let mut folders = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
        let folder = folders.next().ok_or("its zip has no data.pkl; was it written by torch.save?")?.to_owned();
        if folders.next().is_some() {
            return Err("its zip has several data.pkl".to_owned());
        }
        Ok(Self { entries, folder })
    }

    fn pickle<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let slice = |name: &str| self.entry(name).and_then(|range| bytes.get(range));
        if slice("byteorder").is_some_and(|order| order.starts_with(b"big")) {
            return Err("it was written on a big-endian machine; save it again on a little-endian one".to_owned());
        }
        slice("data.pkl").ok_or_else(|| "its data.pkl is out of bounds".to_owned())
    }

    fn entry(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(&format!("{}{name}", self.folder)).cloned()
    }
}

fn entry<R: std::io::Read + std::io::Seek>(
    zip: &mut zip::ZipArchive<R>,
    index: usize,
    file_length: usize,
) -> Result<(String, Range<usize>), String> {
    let entry = zip.by_index_raw(index).map_err(|error| format!("its zip: {error}"))?;
    let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
    if entry.compression() != zip::CompressionMethod::Stored {
        let name = quoted(&name);
        return Err(format!("its entry {name} is compressed; torch.save writes plain entries: save it again"));
    }
    let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
    let length = usize::try_from(entry.compressed_size()).ok();
    let range = start.zip(length).and_then(|(start, length)| Some(start..start.checked_add(length)?));
    match range.filter(|range| range.end <= file_length) {
        Some(range) => Ok((name, range)),
        None => Err(format!("its entry {} lies beyond the end of the file (truncated?)", quoted(&name))),
    }
}

/// A traversal of the pickled dictionaries that collects tensors.
struct Walk<'a> {
    file: &'a Arc<MappedFile>,
    archive: Archive,
    pickle: Pickle<'a>,
    /// Entries, and pieces of 16 bytes of their names, that may still be visited.
    steps: usize,
    /// Bytes that names and tensors may still take.
    memory: usize,
}

impl Walk<'_> {
    fn dictionary(
        &mut self,
        dict: Place,
        prefix: &str,
        depth: usize,
        tensors: &mut Tensors,
    ) -> Result<(), CheckpointError> {
        if depth > MAX_DEPTH {
            return Err(self.malformed(format!("its dictionaries nest deeper than {MAX_DEPTH} levels")));
        }
        let Some(last) = self.pickle.last_entry(dict) else { return Ok(()) };
        let mut at = last;
        loop {
            // A ring: after the last entry comes the first one.
            let Some((_, _, next)) = self.pickle.entry(at) else { return Ok(()) };
            let Some((key, value, _)) = self.pickle.entry(next) else { return Ok(()) };
            self.entry(key, value, (prefix, depth), tensors)?;
            if next == last {
                return Ok(());
            }
            at = next;
        }
    }

    fn entry(
        &mut self,
        key: Place,
        value: Place,
        (prefix, depth): (&str, usize),
        tensors: &mut Tensors,
    ) -> Result<(), CheckpointError> {
        // Counted before the name is made.
        self.count(prefix.len() + self.pickle.text_length(key))?;
        let name = match (self.pickle.get(key), prefix) {
            (Value::Text(key), "") => key.to_owned(),
            (Value::Text(key), _) => format!("{prefix}.{key}"),
            (Value::Int(key), "") => key.to_string(),
            (Value::Int(key), _) => format!("{prefix}.{key}"),
            _ => return Ok(()),
        };
        if self.pickle.get(value) == Value::Dict {
            return self.dictionary(value, &name, depth + 1, tensors);
        }
        let tensor = self.tensor(value).map_err(|reason| self.malformed(format!("{}: {reason}", quoted(&name))))?;
        let Some(tensor) = tensor else { return Ok(()) };
        self.take_memory(name.len() + TENSOR_BYTES + 2 * size_of_val(tensor.shape()))?;
        tensors.insert(name, tensor)
    }

    fn malformed(&self, reason: String) -> CheckpointError {
        CheckpointError::malformed(self.file.path(), reason)
    }

    fn count(&mut self, length: usize) -> Result<(), CheckpointError> {
        let left = self.steps.checked_sub(1 + length / 16);
        self.steps = left.ok_or_else(|| self.malformed("its dictionaries refer to each other too often".to_owned()))?;
        Ok(())
    }

    fn take_memory(&mut self, bytes: usize) -> Result<(), CheckpointError> {
        let left = self.memory.checked_sub(bytes);
        self.memory =
            left.ok_or_else(|| self.malformed("it names more tensors than a file of its length".to_owned()))?;
        Ok(())
    }

    /// Reads a tensor or a parameter that wraps one; `None` for any other object.
    fn tensor(&self, place: Place) -> Result<Option<StoredTensor>, String> {
        let mut place = place;
        // A parameter of a tensor subclass has two wrappers; deeper nesting does not exist.
        for _ in 0..3 {
            let Value::Applied { callable, arguments } = self.pickle.get(place) else { return Ok(None) };
            let Value::Global(module, name) = self.pickle.get(callable) else { return Ok(None) };
            let arguments = self.pickle.items(arguments, MAX_ARGUMENTS);
            match (module, name, arguments.as_slice()) {
                ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
                    return self.view(*storage, None, [*offset, *shape, *strides]).map(Some);
                }
                ("torch._utils", "_rebuild_tensor_v3", [storage, offset, shape, strides, _, _, dtype, ..]) => {
                    return self.view(*storage, Some(*dtype), [*offset, *shape, *strides]).map(Some);
                }
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => place = *data,
                ("torch._tensor", "_rebuild_from_type_v2", [callable, _, arguments, ..]) => {
                    return self.subclass(*callable, *arguments);
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A tensor with Python attributes: its plain constructor and arguments, not yet applied.
    fn subclass(&self, callable: Place, arguments: Place) -> Result<Option<StoredTensor>, String> {
        match (self.pickle.get(callable), &self.pickle.items(arguments, MAX_ARGUMENTS)[..]) {
            (Value::Global("torch._utils", "_rebuild_tensor_v2"), [storage, offset, shape, strides, ..]) => {
                self.view(*storage, None, [*offset, *shape, *strides]).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn view(&self, storage: Place, dtype: Option<Place>, view: [Place; 3]) -> Result<StoredTensor, String> {
        let [offset, shape, strides] = view;
        let (stored, range) = self.storage(storage)?;
        let dtype = match dtype {
            Some(place) => self.dtype(place)?,
            None => stored.ok_or("its storage has no type")?,
        };
        let (offset, shape, strides) = (self.size(offset)?, self.sizes(shape)?, self.sizes(strides)?);
        StoredTensor::view(self.file.clone(), (range.start, range.len()), dtype, shape, offset, strides)
    }

    /// Resolves `("storage", class, key, device, elements)` to the storage's type and bytes.
    fn storage(&self, place: Place) -> Result<(Option<StoredType>, Range<usize>), String> {
        let Value::Persistent(id) = self.pickle.get(place) else { return Err("it has no storage".to_owned()) };
        let unknown = || "its storage is described in an unknown way".to_owned();
        let [kind, class, key, _device, elements] = self.pickle.items(id, MAX_ARGUMENTS)[..] else {
            return Err(unknown());
        };
        if [kind, key].iter().any(|text| self.pickle.text_length(*text) > MAX_STORAGE_NAME_BYTES) {
            return Err(unknown());
        }
        let (Value::Text("storage"), Value::Global(_, class), Value::Text(key)) =
            (self.pickle.get(kind), self.pickle.get(class), self.pickle.get(key))
        else {
            return Err(unknown());
        };
        let range = self.archive.entry(&format!("data/{key}"));
        let range = range.ok_or_else(|| format!("storage {} is missing", quoted(key)))?;
        let dtype = storage_type(class)?;
        let bytes = self.size(elements)?.checked_mul(dtype.map_or(1, StoredType::size));
        match bytes {
            Some(bytes) if bytes <= range.len() => Ok((dtype, range.start..range.start + bytes)),
            _ => Err(format!("storage {} has {} bytes, fewer than its elements need", quoted(key), range.len())),
        }
    }

    fn dtype(&self, place: Place) -> Result<StoredType, String> {
        match self.pickle.get(place) {
            Value::Global("torch", name) => {
                torch_type(name).ok_or_else(|| format!("unknown type {}", quoted(&format!("torch.{name}"))))
            }
            _ => Err("its type is not named".to_owned()),
        }
    }

    fn size(&self, place: Place) -> Result<usize, String> {
        match self.pickle.get(place) {
            Value::Int(value) => usize::try_from(value).map_err(|_| format!("{value} is no size")),
            _ => Err("a size is not a number".to_owned()),
        }
    }

    fn sizes(&self, place: Place) -> Result<Vec<usize>, String> {
        let tuple = match self.pickle.get(place) {
            // `torch.Size((…))`, which some versions write.
            Value::Applied { callable, arguments } if self.pickle.get(callable) == Value::Global("torch", "Size") => {
                self.pickle.items(arguments, 1).first().copied().unwrap_or(arguments)
            }
            _ => place,
        };
        match self.pickle.get(tuple) {
            Value::Tuple(length) if length > MAX_DIMENSIONS => {
                Err(format!("its shape has {length} dimensions; the limit is {MAX_DIMENSIONS}"))
            }
            Value::Tuple(_) => {
                self.pickle.items(tuple, MAX_DIMENSIONS).into_iter().map(|item| self.size(item)).collect()
            }
            _ => Err("its shape is no tuple".to_owned()),
        }
    }
}

/// Returns the element type of a storage class; `None` for the untyped class, whose tensors carry their own type.
fn storage_type(class: &str) -> Result<Option<StoredType>, String> {
    Ok(Some(match class {
        "UntypedStorage" => return Ok(None),
        "FloatStorage" => StoredType::F32,
        "HalfStorage" => StoredType::F16,
        "BFloat16Storage" => StoredType::BF16,
        "DoubleStorage" => StoredType::F64,
        "LongStorage" => StoredType::I64,
        "IntStorage" => StoredType::I32,
        "ShortStorage" => StoredType::I16,
        "CharStorage" => StoredType::I8,
        "ByteStorage" => StoredType::U8,
        "BoolStorage" => StoredType::Bool,
        other => return Err(format!("unknown storage class {}", quoted(other))),
    }))
}

fn torch_type(name: &str) -> Option<StoredType> {
    Some(match name {
        "float32" => StoredType::F32,
        "float16" => StoredType::F16,
        "bfloat16" => StoredType::BF16,
        "float64" => StoredType::F64,
        "float8_e4m3fn" => StoredType::F8E4M3,
        "float8_e5m2" => StoredType::F8E5M2,
        "int64" => StoredType::I64,
        "int32" => StoredType::I32,
        "int16" => StoredType::I16,
        "int8" => StoredType::I8,
        "uint64" => StoredType::U64,
        "uint32" => StoredType::U32,
        "uint16" => StoredType::U16,
        "uint8" => StoredType::U8,
        "bool" => StoredType::Bool,
        _ => return None,
    })
}
