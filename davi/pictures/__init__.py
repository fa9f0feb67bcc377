"""Pictures of any size: pieces of a network's size, and how they become a picture again."""
