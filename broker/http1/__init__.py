"""HTTP/1.1 by the byte: `rules` judges heads, `body` collects bodies, `server` is behind both doors, `client` is the way out."""
