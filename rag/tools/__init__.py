"""What a model may call while it answers, and how users add to it."""

from rag.tools.calculate import calculate
from rag.tools.database import query_database
from rag.tools.registry import Tool, ToolResult, described, load_tools, run_tool, tool

__all__ = [
    "Tool",
    "ToolResult",
    "calculate",
    "described",
    "load_tools",
    "query_database",
    "run_tool",
    "tool",
]
