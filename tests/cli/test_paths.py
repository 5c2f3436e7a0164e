"""What a command line names and is not there is refused at once."""

import subprocess
import sys

import pytest

CODE = """
import sys
from hypoxnet.cli import main
status = main(sys.argv[1:])
print(status, sorted({"torch", "monai", "numpy", "pandas"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("merge none", "none is not a folder; give the folder of the predictions"),
        ("verify none --against bundle", "none is not a folder; give the folder of an export"),
        ("verify bundle --against none", "none is not a folder; give the folder that holds checksums.json"),
        (
            "export bundle none --to onnx --output out",
            "none is not a folder; give the folder that holds checksums.json",
        ),
        ("serve none --watch bundle --output out", "none is not a folder; give the folder that holds checksums.json"),
    ],
)
def test_a_folder_that_does_not_exist_is_refused_before_any_library_is_loaded(tmp_path, arguments, sentence):
    (tmp_path / "bundle").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines() == [sentence]
    assert done.stdout.split(maxsplit=1) == ["2", "[]\n"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
