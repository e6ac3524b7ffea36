"""Google ADK keeps its sessions and artifacts in a `StorageManager`.

pip install "agent-storage[google-adk]"
"""

# It conflicts with other frameworks, so the type checker does not see it.
# pyright: reportMissingImports=false

from integrations.google_adk.artifacts import StorageArtifactService
from integrations.google_adk.sessions import StorageSessionService

__all__ = ["StorageArtifactService", "StorageSessionService"]
