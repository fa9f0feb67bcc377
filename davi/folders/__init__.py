"""Jobs from folder to folder: degrading, restoring, generating, scoring."""
