"""Files of rows: Parquet, JSON Lines, JSON, CSV and TSV, as single rows or as blocks of columns."""

from pluralign.judgments.rows.files import columns_of, expected_rows, read_blocks, read_rows
from pluralign.judgments.rows.json_files import read_json
from pluralign.judgments.rows.opening import ENDINGS, GZIP_DAMAGE, kind_of, opened

__all__ = [
    "ENDINGS", "GZIP_DAMAGE", "columns_of", "expected_rows", "kind_of", "opened", "read_blocks",
    "read_json", "read_rows",
]  # fmt: skip
