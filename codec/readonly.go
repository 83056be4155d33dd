package codec

// ReadOnlyDecoder is a codec that says of itself that its Decode does not write to
// src, as the contract of [Codec] has it. Package chanmq, which may have to hand the
// text back, gives other codecs a copy; so a codec with this method saves a copy of
// each message.
type ReadOnlyDecoder interface {
	// ReadOnlyDecoder does nothing.
	ReadOnlyDecoder()
}

func (bytesCodec) ReadOnlyDecoder()     {}
func (stringCodec) ReadOnlyDecoder()    {}
func (cstringCodec) ReadOnlyDecoder()   {}
func (structCodec[T]) ReadOnlyDecoder() {}
