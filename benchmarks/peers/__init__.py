"""The hybrid search of other libraries, in the way their documentation sets it up.

Each module has a LABEL and `build(texts, vectors)`, which gives a function from a question, its
vector and a number of passages to the passages found. The vectors are ours, so that nobody embeds.
"""

NAMES = ("langchain", "llamaindex", "txtai")
