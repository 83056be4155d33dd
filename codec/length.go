package codec

// FixedSizer is a codec all of whose texts have one size. Package chanmq finds the
// length of a message by it that a process received in the moment of its death: see
// chanmq.WithJournal.
type FixedSizer interface {
	// FixedSize returns the size in bytes.
	FixedSize() int
}

// Ender is a codec that knows a byte which none of its texts ends with, such as 0xFF
// for text in UTF-8. It is for the same purpose as [FixedSizer].
type Ender interface {
	// NeverEndsIn returns the byte.
	NeverEndsIn() byte
}

// neverInUTF8 is a byte that UTF-8 has no use for.
const neverInUTF8 = 0xFF

func (c *structCodec[T]) FixedSize() int { return c.size }

func (stringCodec) NeverEndsIn() byte  { return neverInUTF8 }
func (cstringCodec) NeverEndsIn() byte { return neverInUTF8 }
func (jsonCodec[T]) NeverEndsIn() byte { return neverInUTF8 }
