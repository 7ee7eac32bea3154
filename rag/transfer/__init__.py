"""Knowledge bases on their way from one store to another."""

from rag.transfer.langchain import LANGCHAIN_FILES as LANGCHAIN_FILES
from rag.transfer.langchain import import_langchain as import_langchain
from rag.transfer.parquet import Exported as Exported
from rag.transfer.parquet import export as export
from rag.transfer.parquet import import_parquet as import_parquet
from rag.transfer.putting import Imported as Imported
from rag.transfer.putting import put_all as put_all
