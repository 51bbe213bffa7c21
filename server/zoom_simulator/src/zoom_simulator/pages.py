"""Layout, style and escaping shared by the simulator's pages."""

import hashlib
from base64 import b64encode
from html import escape

_STYLE = """
:root{color-scheme:light dark;--text:#1b1b1f;--soft:#53535c;--page:#f4f4f6;--card:#fff;--line:#8a8a94;--hair:#d9d9df;--bad:#a3123a}
@media (prefers-color-scheme:dark){:root{--text:#ececf1;--soft:#b0b0ba;--page:#131316;--card:#1f1f24;--line:#777782;--hair:#3a3a42;
--bad:#ff9bb0}}
*{box-sizing:border-box}
body{margin:0;font:1.0625rem/1.55 system-ui,sans-serif;color:var(--text);background:var(--page);padding:clamp(1rem,6vh,4rem) 1rem 2rem}
main{max-width:34rem;margin:0 auto;background:var(--card);border:1px dashed var(--line);border-radius:.75rem;
padding:clamp(1.25rem,5vw,2.25rem)}
h1{font-size:1.4rem;line-height:1.25;margin:.25rem 0 1rem;text-wrap:balance}h2{font-size:1rem;margin:1.25rem 0 .25rem}
ul{margin:.25rem 0;padding-left:1.25rem}code{overflow-wrap:anywhere}.note{color:var(--soft);margin:0}
fieldset{border:1px solid var(--line);border-radius:.5rem;margin:1rem 0;padding:.5rem 1rem}legend{font-weight:600;padding:0 .4rem}
label{display:block;padding:.45rem 0;overflow-wrap:anywhere}
button{font:inherit;font-weight:600;padding:.65rem 1.4rem;margin:1rem .6rem 0 0;border-radius:.5rem;border:1px solid var(--text);
background:transparent;color:var(--text);cursor:pointer}
button[value=allow]{background:var(--text);color:var(--card)}
button:focus-visible,input:focus-visible,a:focus-visible{outline:3px solid var(--text);outline-offset:3px}
a{color:inherit}
.wide{max-width:76rem}.wide h2{font-size:1.15rem;margin:2.25rem 0 .5rem}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:1rem 0 0}nav a{padding:.25rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--page);border-radius:.5rem;padding:.6rem .8rem;margin:.5rem 0}
.wide button{font-size:.9rem;padding:.15rem .6rem;margin:0 .4rem .3rem 0}
.wide code{font:.85em/1.5 ui-monospace,monospace}
table{width:100%;border-collapse:collapse;font-size:.95rem;line-height:1.45}
caption{text-align:left;color:var(--soft);padding:0 0 .5rem}
th,td{text-align:left;vertical-align:top;padding:.45rem .9rem .45rem 0;border-top:1px solid var(--hair);overflow-wrap:anywhere;
font-weight:400}
thead th{color:var(--soft);font-weight:600;border-top:0;overflow-wrap:normal}
tbody th{font-weight:600}.time{white-space:nowrap;font-weight:400}.who{display:inline-block;min-width:11rem}th .who{min-width:12.5rem}
.line{white-space:nowrap}.topic{display:inline-block;min-width:7rem}
.bad{color:var(--bad);font-weight:600}
@media (max-width:60rem){body:has(.wide){padding:.5rem}.wide{padding:1rem}.wide h2{margin-top:1.5rem}
table,caption,tbody,tr{display:block}table{font-size:.9rem}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tbody tr{border-top:1px solid var(--hair);padding:.4rem 0}
tbody th,tbody td{display:inline-block;max-width:100%;border:0;padding:0 .7rem 0 0}.who,.topic{display:inline}
td .line,td form,td details{display:inline-block;vertical-align:top}td form button{margin-bottom:0}
td::before{content:attr(data-label) ": ";color:var(--soft)}[aria-labelledby=requests] td{display:inline}
[aria-labelledby=requests] td::before{content:none}td:has(.none){display:none}}
"""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every page."""


def document(title: str, content: str, *, wide: bool = False) -> str:
    """Return a complete HTML page.

    Args:
        title: The window title, as plain text.
        content: HTML of the page below the note at the top.
        wide: Use the wide layout for tables.
    """
    css_class = ' class="wide"' if wide else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head><body><main{css_class}>"
        '<p class="note">Zoom simulator on the local machine; no real account is involved</p>'
        f"{content}</main></body></html>"
    )


def escaped(text: str) -> str:
    """Escape untrusted text for HTML."""
    return escape(printable(text))


def printable(text: str) -> str:
    r"""Replace unprintable and bidirectional control characters with escapes such as `\u202e`."""
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)
