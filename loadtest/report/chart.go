package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The place of a chart's axes within its drawing.
const (
	chartWidth, chartHeight = 640.0, 300.0
	left, right             = 62.0, 12.0
	top, bottom             = 14.0, 44.0
)

// point is a value of a series.
type point struct{ x, y float64 }

// series is one line of a chart.
type series struct {
	name   string
	class  string // of the style sheet
	points []point
	dots   bool
}

// chart is a drawing of some series over two axes.
type chart struct {
	title, x, y string
	logX        bool
	series      []series
	marks       []mark
}

// mark is a moment that stands out.
type mark struct {
	at    float64
	class string
	title string
}

// Drawing is a chart with everything in its place, for the template.
type Drawing struct {
	Title, X, Y          string
	Width, Height        string
	Left, Right          string
	Top, Bottom, Middle  string
	XTicks, YTicks       []Tick
	Lines                []Line
	Marks                []Mark
	Empty                bool
	LabelX, CenterY      string
	XTickLabel, XCaption string
}

// Tick is a line across a chart with a label.
type Tick struct{ At, Label string }

// Line is a series as drawn.
type Line struct {
	Name, Class, Path string
	Dots              []Dot
}

// Dot is a value as drawn.
type Dot struct{ X, Y, Title string }

// Mark is a vertical line.
type Mark struct{ X, Class, Title string }

// draw puts a chart's values into their places.
func (c chart) draw() Drawing {
	d := Drawing{
		Title: c.title, X: c.x, Y: c.y, Width: px(chartWidth), Height: px(chartHeight), Left: px(left), Right: px(chartWidth - right),
		Top: px(top), Bottom: px(chartHeight - bottom), Middle: px((left + chartWidth - right) / 2), CenterY: px((top + chartHeight - bottom) / 2),
		XTickLabel: px(chartHeight - bottom + 15), XCaption: px(chartHeight - 8), LabelX: px(left - 6),
	}
	minX, maxX, maxY, any := c.extent()
	if !any {
		d.Empty = true
		return d
	}
	if !c.logX {
		minX = min(0, minX)
	}
	if maxX <= minX {
		maxX = minX + 1
	}
	if maxY <= 0 {
		maxY = 1
	}
	step := nice(maxY / 5)
	maxY = math.Ceil(maxY/step) * step
	scaleX := func(v float64) float64 { return (v - minX) / (maxX - minX) }
	if c.logX {
		low, high := math.Log10(minX), math.Log10(maxX)
		scaleX = func(v float64) float64 { return (math.Log10(v) - low) / max(high-low, 1e-9) }
	}
	placeX := func(v float64) float64 { return left + scaleX(v)*(chartWidth-left-right) }
	placeY := func(v float64) float64 { return chartHeight - bottom - v/maxY*(chartHeight-top-bottom) }
	for i := range int(math.Round(maxY/step)) + 1 {
		v := float64(i) * step
		d.YTicks = append(d.YTicks, Tick{px(placeY(v)), number(v)})
	}
	for _, v := range c.ticksX(minX, maxX) {
		d.XTicks = append(d.XTicks, Tick{px(placeX(v)), number(v)})
	}
	for _, s := range c.series {
		l := Line{Name: s.name, Class: s.class}
		var path strings.Builder
		for i, p := range s.points {
			verb := "L"
			if i == 0 {
				verb = "M"
			}
			x, y := px(placeX(p.x)), px(placeY(p.y))
			fmt.Fprintf(&path, "%s%s %s", verb, x, y)
			if s.dots {
				l.Dots = append(l.Dots, Dot{x, y, s.name + ": " + number(p.x) + ", " + number(p.y)})
			}
		}
		l.Path = path.String()
		d.Lines = append(d.Lines, l)
	}
	for _, m := range c.marks {
		d.Marks = append(d.Marks, Mark{px(placeX(m.at)), m.class, m.title})
	}
	return d
}

// extent is the room that the values need; a logarithmic axis has no place for what is not above 0.
func (c chart) extent() (minX, maxX, maxY float64, any bool) {
	minX, maxX = math.Inf(1), math.Inf(-1)
	for i := range c.series {
		s := &c.series[i]
		if c.logX {
			kept := s.points[:0:0]
			for _, p := range s.points {
				if p.x > 0 {
					kept = append(kept, p)
				}
			}
			s.points = kept
		}
		for _, p := range s.points {
			any = true
			minX, maxX, maxY = min(minX, p.x), max(maxX, p.x), max(maxY, p.y)
		}
	}
	return minX, maxX, maxY, any
}

func (c chart) ticksX(low, high float64) (out []float64) {
	if c.logX {
		for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
			for _, m := range []float64{1, 2, 5} {
				if v := m * math.Pow(10, e); v >= low*0.999 && v <= high*1.001 {
					out = append(out, v)
				}
			}
		}
		return out
	}
	step := nice((high - low) / 7)
	for v := math.Ceil(low/step) * step; v <= high*1.0001; v += step {
		out = append(out, v)
	}
	return out
}

// nice is the next of 1, 2 and 5 times a power of ten.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v*0.9999 {
			return m * power
		}
	}
	return 10 * power
}

func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// number writes a figure with three digits that count.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 1e6:
		return strconv.FormatFloat(math.Round(v/1e3)/1e3, 'f', -1, 64) + "M"
	case a >= 1e4:
		return group(strconv.FormatFloat(math.Round(v), 'f', 0, 64))
	case a >= 100:
		return group(strconv.FormatFloat(math.Round(v), 'f', 0, 64))
	case a >= 10:
		return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
	case a >= 1:
		return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
	default:
		return strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64)
	}
}

// group sets commas between thousands.
func group(s string) string {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}
