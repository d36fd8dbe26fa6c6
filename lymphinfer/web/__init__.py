"""The page where a pathologist sets the gates: ``lymphinfer gate serve``."""
