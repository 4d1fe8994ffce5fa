//! Parquet: outcomes in columns.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::columns::{Columns, Kind};
use super::label::KEY;
use super::record::{self, Record};
use crate::printer::bare;

/// Rows are written when they have come to so much; what is in memory is a small multiple of it.
const GROUP_BYTES: usize = 16 << 20;

/// Makes a Parquet file of a journal; `label` is what it says of itself besides.
///
/// # Errors
/// Where the journal cannot be read or the file cannot be written.
pub(super) fn convert(
    journal: &Path,
    columns: &Columns,
    label: Option<String>,
    to: impl Write + Send,
) -> io::Result<()> {
    let mut table = Table::new(columns);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(format!("tidemill {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(label.map(|label| vec![KeyValue::new(KEY.to_owned(), label)]))
        .build();
    let schema = table.schema().map_err(plain)?;
    let mut file = SerializedFileWriter::new(to, Arc::new(schema), Arc::new(properties)).map_err(plain)?;
    record::read(journal, |record| {
        table.push(record)?;
        if table.bytes() >= GROUP_BYTES { table.write(&mut file).map_err(plain) } else { Ok(()) }
    })?;
    table.write(&mut file).map_err(plain)?;
    file.close().map_err(plain).map(drop)
}

/// What the writing itself says, without the library's words around it.
fn plain(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => io::Error::other(cause),
        error => io::Error::other(error),
    }
}

/// Rows that are not written yet.
struct Table {
    /// Those that every task has, in the order of [`Table::push`], then those of the output.
    columns: Vec<Column>,
    /// The properties that the columns of the output stand for; none where the output is one value.
    properties: Option<Vec<String>>,
    rows: usize,
}

struct Column {
    name: String,
    kind: Kind,
    cells: Cells,
    /// For each row 1 where it has a cell, and 0 where not.
    levels: Vec<i16>,
    bytes: usize,
}

enum Cells {
    Whole(Vec<i64>),
    Number(Vec<f64>),
    Boolean(Vec<bool>),
    Text(Vec<ByteArray>),
}

/// The columns of every task.
const COMMON: [(&str, Kind); 12] = [
    ("index", Kind::Unsigned),
    ("input", Kind::Text),
    ("name", Kind::Text),
    ("status", Kind::Text),
    ("attempts", Kind::Unsigned),
    ("worker", Kind::Text),
    ("device", Kind::Text),
    ("queued_ms", Kind::Number),
    ("run_ms", Kind::Number),
    ("error_kind", Kind::Text),
    ("error_message", Kind::Text),
    ("error_retryable", Kind::Boolean),
];

impl Table {
    fn new(columns: &Columns) -> Self {
        let mut all: Vec<Column> = COMMON.iter().map(|(name, kind)| Column::new((*name).to_owned(), *kind)).collect();
        let properties = match columns {
            Columns::Whole(kind) => {
                all.push(Column::new("output".into(), *kind));
                None
            }
            Columns::Properties(properties) => {
                all.extend(properties.iter().map(|(name, kind)| Column::new(format!("output_{name}"), *kind)));
                Some(properties.iter().map(|(name, _)| name.clone()).collect())
            }
        };
        Self { columns: all, properties, rows: 0 }
    }

    fn schema(&self) -> Result<Type> {
        let fields = self.columns.iter().map(|column| column.field().map(Arc::new)).collect::<Result<_>>()?;
        Type::group_type_builder("outcomes").with_fields(fields).build()
    }

    fn bytes(&self) -> usize {
        self.columns.iter().map(|column| column.bytes).sum()
    }

    fn push(&mut self, record: &Record<'_>) -> io::Result<()> {
        let error = record.error.as_ref();
        let text = |text: &str| Some(Cell::Text(text.to_owned()));
        let worker = Some(&*record.worker).filter(|worker| !worker.is_empty());
        let device = Some(&*record.device).filter(|device| !device.is_empty());
        let common = [
            Some(Cell::Unsigned(record.index)),
            Some(Cell::Text(bare(record.input))),
            record.name.as_deref().and_then(text),
            text(record.status.as_str()),
            Some(Cell::Unsigned(record.attempts.into())),
            worker.and_then(text),
            device.and_then(text),
            Some(Cell::Number(record.timing.queued_ms)),
            Some(Cell::Number(record.timing.run_ms)),
            error.and_then(|error| text(&error.kind)),
            error.and_then(|error| text(&error.message)),
            error.map(|error| Cell::Boolean(error.retryable)),
        ];
        let (columns, of_output) = self.columns.split_at_mut(COMMON.len());
        for (column, cell) in columns.iter_mut().zip(common) {
            column.push(cell);
        }
        match &self.properties {
            None => {
                for column in of_output {
                    column.push_json(record.output)?;
                }
            }
            Some(names) => {
                let output: Option<HashMap<Cow<'_, str>, &RawValue>> =
                    record.output.map(|output| serde_json::from_str(output.get())).transpose()?;
                for (column, name) in of_output.iter_mut().zip(names) {
                    column.push_json(output.as_ref().and_then(|output| output.get(name.as_str()).copied()))?;
                }
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Writes the rows as a group, and forgets them.
    fn write<W: Write + Send>(&mut self, file: &mut SerializedFileWriter<W>) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = file.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            column.write(writer.untyped())?;
            writer.close()?;
        }
        self.rows = 0;
        group.close().map(drop)
    }
}

/// What stands in one row of one column.
enum Cell {
    Integer(i64),
    Unsigned(u64),
    Number(f64),
    Boolean(bool),
    Text(String),
}

impl Column {
    fn new(name: String, kind: Kind) -> Self {
        let cells = match kind {
            Kind::Integer | Kind::Unsigned => Cells::Whole(Vec::new()),
            Kind::Number => Cells::Number(Vec::new()),
            Kind::Boolean => Cells::Boolean(Vec::new()),
            Kind::Text | Kind::Json => Cells::Text(Vec::new()),
        };
        Self { name, kind, cells, levels: Vec::new(), bytes: 0 }
    }

    fn field(&self) -> Result<Type> {
        let of = |physical| Type::primitive_type_builder(&self.name, physical).with_repetition(Repetition::OPTIONAL);
        match self.kind {
            Kind::Integer => of(Physical::INT64),
            Kind::Unsigned => of(Physical::INT64)
                .with_logical_type(Some(LogicalType::integer(64, false)))
                .with_converted_type(ConvertedType::UINT_64),
            Kind::Number => of(Physical::DOUBLE),
            Kind::Boolean => of(Physical::BOOLEAN),
            // JSON stays a string: few readers know the type JSON.
            Kind::Text | Kind::Json => of(Physical::BYTE_ARRAY)
                .with_logical_type(Some(LogicalType::String))
                .with_converted_type(ConvertedType::UTF8),
        }
        .build()
    }

    fn push_json(&mut self, json: Option<&RawValue>) -> io::Result<()> {
        fn read<'a, T: Deserialize<'a>>(name: &str, json: &'a RawValue) -> io::Result<T> {
            serde_json::from_str(json.get()).map_err(|error| io::Error::other(format!("{name}: {error}")))
        }
        let name = &self.name;
        let cell = match json.filter(|json| json.get() != "null") {
            None => None,
            Some(json) => Some(match self.kind {
                Kind::Integer => Cell::Integer(read(name, json)?),
                Kind::Unsigned => Cell::Unsigned(read(name, json)?),
                Kind::Number => Cell::Number(read(name, json)?),
                Kind::Boolean => Cell::Boolean(read(name, json)?),
                Kind::Text => Cell::Text(bare(json)),
                Kind::Json => Cell::Text(json.get().to_owned()),
            }),
        };
        self.push(cell);
        Ok(())
    }

    fn push(&mut self, cell: Option<Cell>) {
        self.levels.push(cell.is_some().into());
        self.bytes += size_of::<i16>();
        match (cell, &mut self.cells) {
            (Some(Cell::Integer(value)), Cells::Whole(cells)) => cells.push(value),
            // The format has no other place for them: the type says that the bits are without a sign.
            (Some(Cell::Unsigned(value)), Cells::Whole(cells)) => cells.push(value.cast_signed()),
            (Some(Cell::Number(value)), Cells::Number(cells)) => cells.push(value),
            (Some(Cell::Boolean(value)), Cells::Boolean(cells)) => cells.push(value),
            (Some(Cell::Text(value)), Cells::Text(cells)) => {
                self.bytes += value.len() + size_of::<ByteArray>();
                cells.push(value.into_bytes().into());
                return;
            }
            (None, _) => return,
            (Some(_), _) => unreachable!("a cell is made by its column's kind"),
        }
        self.bytes += size_of::<i64>();
    }

    fn write(&mut self, writer: &mut ColumnWriter<'_>) -> Result<()> {
        let levels = Some(&self.levels[..]);
        match (&mut self.cells, writer) {
            (Cells::Whole(cells), ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(cells, levels, None)?;
                cells.clear();
            }
            (Cells::Number(cells), ColumnWriter::DoubleColumnWriter(writer)) => {
                writer.write_batch(cells, levels, None)?;
                cells.clear();
            }
            (Cells::Boolean(cells), ColumnWriter::BoolColumnWriter(writer)) => {
                writer.write_batch(cells, levels, None)?;
                cells.clear();
            }
            (Cells::Text(cells), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                writer.write_batch(cells, levels, None)?;
                cells.clear();
            }
            _ => return Err(ParquetError::General(format!("{} is not written as its field says", self.name))),
        }
        self.levels.clear();
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use serde_json::{Value, json};

    use super::*;

    const JOURNAL: &str = r#"{"index":0,"input":"a.jpg","status":"ok","output":{"bytes":18446744073709551615,"delta":-3,"share":0.5,"done":true,"word":"é","list":[1,2]},"attempts":1,"worker":"w","device":"cpu","timing":{"queued_ms":0.120,"run_ms":3},"name":"a/a.jpg"}
{"index":1,"input":{"x":1},"status":"failed","error":{"kind":"timeout","message":"too long","retryable":true},"attempts":3,"worker":"","device":"","timing":{"queued_ms":0,"run_ms":1}}
{"index":2,"input":7,"status":"ok","output":{"bytes":1,"share":2},"attempts":1,"worker":"w","device":"cpu","timing":{"queued_ms":0,"run_ms":1}}
"#;

    fn rows(journal: &str, columns: &Columns) -> Vec<Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, journal).unwrap();
        let mut file = Vec::new();
        convert(&path, columns, None, &mut file).unwrap();
        let reader = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        rows.map(|row| {
            let row = row.unwrap();
            let cells = row.get_column_iter().map(|(name, field)| {
                use parquet::record::Field;
                let value = match field {
                    Field::Null => Value::Null,
                    Field::Bool(value) => json!(value),
                    Field::Long(value) => json!(value),
                    Field::ULong(value) => json!(value),
                    Field::Double(value) => json!(value),
                    Field::Str(value) => json!(value),
                    other => panic!("{other:?}"),
                };
                (name.clone(), value)
            });
            Value::Object(cells.collect())
        })
        .collect()
    }

    #[test]
    fn what_is_written_is_read_back_in_its_types() {
        let columns = Columns::Properties(
            [
                ("bytes", Kind::Unsigned),
                ("delta", Kind::Integer),
                ("share", Kind::Number),
                ("done", Kind::Boolean),
                ("word", Kind::Text),
                ("list", Kind::Json),
            ]
            .map(|(name, kind)| (name.to_owned(), kind))
            .into(),
        );
        let rows = rows(JOURNAL, &columns);
        assert_eq!(
            rows[0],
            json!({
                "index": 0, "input": "a.jpg", "name": "a/a.jpg", "status": "ok", "attempts": 1, "worker": "w",
                "device": "cpu", "queued_ms": 0.12, "run_ms": 3.0, "error_kind": null, "error_message": null,
                "error_retryable": null, "output_bytes": u64::MAX, "output_delta": -3, "output_share": 0.5,
                "output_done": true, "output_word": "é", "output_list": "[1,2]",
            })
        );
        assert_eq!(rows[1]["input"], "{\"x\":1}");
        assert_eq!([&rows[1]["error_kind"], &rows[1]["error_retryable"]], [&json!("timeout"), &json!(true)]);
        assert!(rows[1]["output_bytes"].is_null() && rows[1]["worker"].is_null() && rows[1]["name"].is_null());
        assert_eq!([&rows[2]["output_share"], &rows[2]["output_delta"]], [&json!(2.0), &Value::Null]);
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn many_rows_become_several_groups_and_none_is_lost() {
        let line = JOURNAL.lines().next().unwrap().replace("a.jpg", &"a".repeat(1 << 20));
        let journal: String =
            (0..20).map(|index| line.replace("\"index\":0", &format!("\"index\":{index}")) + "\n").collect();
        let rows = rows(&journal, &Columns::Whole(Kind::Json));
        let indices: Vec<u64> = rows.iter().map(|row| row["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..20).collect::<Vec<_>>());
        assert!(rows[19]["output"].as_str().unwrap().starts_with("{\"bytes\""));
    }

    #[test]
    fn an_empty_batch_is_a_file_without_rows() {
        assert_eq!(rows("", &Columns::Whole(Kind::Number)), Vec::<Value>::new());
    }

    #[test]
    fn what_does_not_fit_its_column_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, JOURNAL).unwrap();
        let columns = Columns::Properties(vec![("word".to_owned(), Kind::Number)]);
        let error = convert(&path, &columns, None, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("line 1: output_word"), "{error}");
    }
}
