"Make README.md from nbs/index.ipynb: its text, and its picture as a file beside the notebook."
import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
parts = ["<!-- Made from nbs/index.ipynb by `make readme`: edit that. -->"]
for cell in json.loads((ROOT / "nbs/index.ipynb").read_text())["cells"]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        parts.append(re.sub(r"\]\((?!https?:)([^)#]+\.ipynb|images/)", r"](nbs/\1", source))
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/jpeg" in data:
            target = ROOT / "nbs/images" / f"index_{sum('](nbs/images/index' in p for p in parts)}.jpg"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(base64.b64decode("".join(data["image/jpeg"])))
            parts.append(f"![{''.join(data['text/plain'])}]({target.relative_to(ROOT)})")
(ROOT / "README.md").write_text("\n\n".join(parts) + "\n")
print("README.md")
