package main

import (
	"cmp"
	"fmt"
	"image/color"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The plots are SVG: text, which git stores and compares well.

const (
	panelWidth  = 4.6 * vg.Inch
	panelHeight = 3.4 * vg.Inch
)

// A color-blind safe palette (Okabe and Ito).
var palette = []color.Color{
	color.RGBA{0x00, 0x00, 0x00, 0xff},
	color.RGBA{0x00, 0x72, 0xb2, 0xff},
	color.RGBA{0xd5, 0x5e, 0x00, 0xff},
	color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff},
	color.RGBA{0xe6, 0x9f, 0x00, 0xff},
	color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	color.RGBA{0x99, 0x99, 0x99, 0xff},
}

// figure is panels with one legend for all of them.
type figure struct {
	panels []*plot.Plot
	legend plot.Legend
	shown  map[string]bool // in the legend
}

func newFigure() *figure {
	f := &figure{legend: plot.NewLegend(), shown: make(map[string]bool)}
	f.legend.TextStyle.Font.Size = vg.Points(8)
	f.legend.ThumbnailWidth = vg.Points(16)
	f.legend.Padding = vg.Points(2)
	f.legend.Top, f.legend.Left = true, true
	return f
}

func (f *figure) explain(label string, thumbs ...plot.Thumbnailer) {
	if !f.shown[label] {
		f.shown[label] = true
		f.legend.Add(label, thumbs...)
	}
}

// plot draws what the run has into dir, and returns the files by family.
func (r *report) plot(dir string) (map[family]string, error) {
	files := make(map[family]string)
	for f, make := range map[family]func([]*result) (*figure, error){
		roundTrip: roundTripFigure,
		oneWay:    oneWayFigure,
		senders:   sendersFigure,
		idleTime:  idleTimeFigure,
		receivers: receiversFigure,
	} {
		var cases []*result
		for _, c := range r.Cases {
			if c.Family == f && len(c.Figures) > 0 {
				cases = append(cases, c)
			}
		}
		if len(cases) == 0 {
			continue
		}
		figure, err := make(cases)
		if err != nil {
			return nil, err
		}
		name := string(f) + ".svg"
		if err := figure.draw(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
		files[f] = name
	}
	return files, nil
}

// draw puts the panels two in a row, and the legend beside them.
func (f *figure) draw(path string) error {
	const legendWidth = 2.7 * vg.Inch
	columns := min(len(f.panels), 2)
	rows := (len(f.panels) + columns - 1) / columns
	size := vg.Point{X: panelWidth * vg.Length(columns), Y: panelHeight * vg.Length(rows)}
	canvas := vgsvg.New(size.X+legendWidth, size.Y)
	c := draw.New(canvas)
	c.SetColor(color.White)
	c.Fill(c.Rectangle.Path())
	tiles := draw.Tiles{
		Cols: columns, Rows: rows,
		PadX: vg.Points(12), PadY: vg.Points(12),
		PadTop: vg.Points(4), PadBottom: vg.Points(4), PadLeft: vg.Points(4), PadRight: vg.Points(8),
	}
	for i, p := range f.panels {
		widen(&p.X)
		widen(&p.Y)
		p.Draw(tiles.At(draw.Crop(c, 0, -legendWidth, 0, 0), i%columns, i/columns))
	}
	f.legend.Draw(draw.Crop(c, size.X+vg.Points(6), 0, 0, -vg.Points(20)))
	return writeFile(path, func(w io.Writer) error {
		_, err := canvas.WriteTo(w)
		return err
	})
}

// widen gives an axis with a single value some room, which gonum would take from
// a logarithmic axis with the same step down to zero.
func widen(a *plot.Axis) {
	if a.Min == a.Max && a.Min > 0 {
		a.Min, a.Max = a.Min*0.8, a.Max*1.25
	}
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size = vg.Points(11)
	for _, size := range []*font.Length{&p.X.Label.TextStyle.Font.Size, &p.Y.Label.TextStyle.Font.Size} {
		*size = vg.Points(9)
	}
	for _, size := range []*font.Length{&p.X.Tick.Label.Font.Size, &p.Y.Tick.Label.Font.Size} {
		*size = vg.Points(8)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color = color.Gray{0xe0}
	grid.Horizontal.Color = color.Gray{0xe0}
	p.Add(grid)
	return p
}

// logarithmic gives an axis marks at 1, 2 and 5 of each power of ten, with what
// label says of them, and lets it end at such marks.
func logarithmic(a *plot.Axis, label func(float64) string) {
	a.Scale = plot.LogScale{}
	a.AutoRescale = true
	a.Tick.Marker = plot.TickerFunc(func(least, most float64) (ticks []plot.Tick) {
		wide := most/least > 1e3 // too many labels otherwise
		for e := math.Floor(math.Log10(least)); ; e++ {
			for _, m := range []struct{ mark, next float64 }{{1, 2}, {2, 5}, {5, 10}} {
				v := m.mark * math.Pow(10, e)
				if m.next*math.Pow(10, e) <= least {
					continue
				}
				t := plot.Tick{Value: v}
				if !wide || m.mark == 1 {
					t.Label = label(v)
				}
				if ticks = append(ticks, t); v >= most {
					return ticks
				}
			}
		}
	})
}

// percentages gives an axis marks at multiples of 20 that are never negative.
func percentages(a *plot.Axis) {
	a.Tick.Marker = plot.TickerFunc(func(_, most float64) (ticks []plot.Tick) {
		for v := 0.0; v <= most; v += 20 {
			ticks = append(ticks, plot.Tick{Value: v, Label: count(v)})
		}
		return ticks
	})
}

func shortDuration(ns float64) string {
	return strings.Replace(time.Duration(math.Round(ns)).String(), "\u00b5", "u", 1)
}

// measuredAt gives a logarithmic axis marks at the values that were measured.
func measuredAt(a *plot.Axis, values []int) {
	a.Scale = plot.LogScale{}
	var ticks plot.ConstantTicks
	for _, v := range values {
		ticks = append(ticks, plot.Tick{Value: float64(v), Label: fmt.Sprint(v)})
	}
	a.Tick.Marker = ticks
}

// point is what several rounds measured at x.
type point struct {
	x float64
	y spread
}

// points are a curve: medians, with ranges as error bars.
type points []point

func (p points) Len() int                    { return len(p) }
func (p points) XY(i int) (float64, float64) { return p[i].x, p[i].y.Median }
func (p points) YError(i int) (float64, float64) {
	return p[i].y.Median - p[i].y.Min, p[i].y.Max - p[i].y.Median
}

// curveOf collects a figure of the cases of a system that keep accepts, by x.
func curveOf(cases []*result, figure string, keep func(*result) bool, x func(params) int) points {
	var curve points
	for _, c := range cases {
		if s := c.of(figure); keep(c) && len(s) > 0 {
			curve = append(curve, point{float64(x(c.Params)), s.summarize()})
		}
	}
	slices.SortFunc(curve, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	return curve
}

// add draws a curve in the style of its number.
func (f *figure) add(p *plot.Plot, label string, style int, curve points) error {
	if len(curve) == 0 {
		return nil
	}
	l, s, err := plotter.NewLinePoints(curve)
	if err != nil {
		return err
	}
	bars, err := plotter.NewYErrorBars(curve)
	if err != nil {
		return err
	}
	paint := palette[style%len(palette)]
	l.Color, s.Color, bars.Color = paint, paint, paint
	l.Width, s.Radius, bars.CapWidth = vg.Points(1.2), vg.Points(2), vg.Points(3)
	s.Shape = draw.CircleGlyph{}
	if style >= len(palette) {
		l.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
	}
	p.Add(l, s, bars)
	f.explain(label, l, s)
	return nil
}

// systems returns the systems of the cases in their order.
func systems(cases []*result) (names []string) {
	for _, c := range cases {
		if !slices.Contains(names, c.System) {
			names = append(names, c.System)
		}
	}
	return names
}

func roundTripFigure(cases []*result) (*figure, error) {
	f := newFigure()
	p := newPlot("Round trip, 64 bytes", "time", "")
	logarithmic(&p.X, shortDuration)
	names := systems(cases)
	slices.Reverse(names) // the first at the top
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.5, float64(len(names))-0.5
	for i, style := range []struct {
		label, figure string
		procs         int
		shape         draw.GlyphDrawer
	}{
		{"p50", "rtt_p50", 0, draw.CircleGlyph{}},
		{"p50, GOMAXPROCS=1", "rtt_p50", 1, draw.CircleGlyph{}},
		{"p99", "rtt_p99", 0, draw.PlusGlyph{}},
		{"p99, GOMAXPROCS=1", "rtt_p99", 1, draw.PlusGlyph{}},
	} {
		var dots plotter.XYs
		for _, c := range cases {
			if s := c.of(style.figure); c.Params.Procs == style.procs && len(s) > 0 {
				dots = append(dots, plotter.XY{X: s.summarize().Median, Y: float64(slices.Index(names, c.System))})
			}
		}
		if len(dots) == 0 {
			continue
		}
		s, err := plotter.NewScatter(dots)
		if err != nil {
			return nil, err
		}
		s.Shape, s.Radius, s.Color = style.shape, vg.Points(3), palette[1+i%2]
		p.Add(s)
		f.explain(style.label, s)
	}
	f.panels = append(f.panels, p)
	return f, nil
}

func oneWayFigure(cases []*result) (*figure, error) {
	f := newFigure()
	size := func(p params) int { return p.Size }
	all := values(cases, func(p params) int { return p.Procs })
	if len(all) > 1 && all[0] == 0 {
		all = all[1:] // C: in every panel
	}
	for _, procs := range all {
		p := newPlot(fmt.Sprintf("One way, GOMAXPROCS=%d", procs), "size of a message, bytes", "time per message")
		logarithmic(&p.Y, shortDuration)
		measuredAt(&p.X, values(cases, size))
		for i, name := range systems(cases) {
			curve := curveOf(cases, "ns_per_message", func(c *result) bool {
				return c.System == name && (c.Params.Procs == procs || c.Params.Procs == 0)
			}, size)
			if err := f.add(p, name, i, curve); err != nil {
				return nil, err
			}
		}
		f.panels = append(f.panels, p)
	}
	return f, nil
}

func sendersFigure(cases []*result) (*figure, error) {
	f := newFigure()
	n := func(p params) int { return p.Senders }
	p := newPlot("One way, 64 bytes, several sender processes", "sender processes", "time per message")
	logarithmic(&p.Y, shortDuration)
	measuredAt(&p.X, values(cases, n))
	for i, name := range systems(cases) {
		curve := curveOf(cases, "ns_per_message", func(c *result) bool { return c.System == name }, n)
		if err := f.add(p, name, i, curve); err != nil {
			return nil, err
		}
	}
	f.panels = append(f.panels, p)
	return f, nil
}

// idleTimeFigure has a panel for each system, in it the distribution of its
// latency at each idle time.
func idleTimeFigure(cases []*result) (*figure, error) {
	f := newFigure()
	times := values(cases, func(p params) time.Duration { return p.Idle })
	least, most := histogramBins, 0
	for _, c := range cases {
		for bin, n := range c.Histogram {
			if n > 0 {
				least, most = min(least, bin), max(most, bin)
			}
		}
	}
	for _, name := range systems(cases) {
		p := newPlot(name, "latency", "messages, %")
		logarithmic(&p.X, shortDuration)
		percentages(&p.Y)
		for _, c := range cases {
			if c.System != name || c.Histogram == nil {
				continue
			}
			total := 0
			for _, n := range c.Histogram {
				total += n
			}
			var steps plotter.XYs
			for bin := least; bin <= most; bin++ {
				// A step from the start of the bin to that of the next.
				steps = append(steps, plotter.XY{X: binStart(bin), Y: 100 * float64(c.Histogram[bin]) / float64(total)})
			}
			steps = append(steps, plotter.XY{X: binStart(most + 1)})
			l, err := plotter.NewLine(steps)
			if err != nil {
				return nil, err
			}
			l.StepStyle = plotter.PostStep
			l.Color, l.Width = palette[slices.Index(times, c.Params.Idle)%len(palette)], vg.Points(1.2)
			p.Add(l)
			f.explain("idle for "+shortDuration(float64(c.Params.Idle)), l)
		}
		// All panels the same, to be compared.
		p.X.Min, p.X.Max, p.Y.Min = binStart(least), binStart(most+1), 0
		f.panels = append(f.panels, p)
	}
	return f, nil
}

func receiversFigure(cases []*result) (*figure, error) {
	f := newFigure()
	n := func(p params) int { return p.Receivers }
	for _, panel := range []struct {
		title, figure string
		label         func(float64) string
	}{
		{"CPU per second while idle", "cpu_ns_per_s", shortDuration},
		{"Threads", "threads", count},
		{"Delivery of a message, p50", "latency_p50", shortDuration},
		{"Delivery of a message, p99", "latency_p99", shortDuration},
		{"One msgsnd of the sender, p50", "send_p50", shortDuration},
	} {
		p := newPlot(panel.title, "receivers of one process on one queue", "")
		logarithmic(&p.Y, panel.label)
		measuredAt(&p.X, values(cases, n))
		for i, name := range systems(cases) {
			curve := curveOf(cases, panel.figure, func(c *result) bool { return c.System == name }, n)
			for j := range curve {
				// A logarithmic axis has no zero.
				curve[j].y.Median, curve[j].y.Min = max(curve[j].y.Median, 1), max(curve[j].y.Min, 1)
			}
			if err := f.add(p, name, i, curve); err != nil {
				return nil, err
			}
		}
		f.panels = append(f.panels, p)
	}
	return f, nil
}
