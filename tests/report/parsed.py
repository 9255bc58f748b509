"""A page of the report, as a browser would take it apart."""

import html.parser

_VOID = {"meta", "br", "hr"}


class Page(html.parser.HTMLParser):
    """Checks that every tag is closed in order, and keeps what there is."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data")
        ]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)
