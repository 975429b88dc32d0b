package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/image"
	"terok/internal/text"
)

func newImageCmd(e *env) *cobra.Command {
	return group("image", "Make and list the images that tasks stand on",
		newImageBootstrapCmd(e), newImageBuildCmd(e), newImageListCmd(e))
}

// imageFlags are common to the commands that build.
func imageFlags(c *cobra.Command, o *terok.ImageOptions, base bool) {
	f := c.Flags()
	if base {
		f.StringVar(&o.Base, "base", image.DefaultBase, "base image")
	}
	f.StringArrayVar(&o.CA, "ca", nil, "PEM file of an authority that build containers trust (repeatable)")
	f.BoolVar(&o.Force, "force", false, "make it anew even when it is there")
}

func newImageBootstrapCmd(e *env) *cobra.Command {
	var o terok.ImageOptions
	var mirror, security string
	c := &cobra.Command{
		Use:   "bootstrap NAME",
		Short: "Make a base image from the distribution's package mirror, without a registry",
		Long: `Makes localhost/NAME (debian:12 or debian:13) with mmdebstrap inside podman's user namespace:
no registry and no root. Packages are checked with the host's archive keyring.`,
		Example: "  terok image bootstrap debian:12\n  terok image bootstrap debian:12 --mirror http://mirror.example/debian",
		Args:    exactly(1, "the name of a distribution, e.g. debian:12"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Verbose = !e.quiet && !e.json
			ref, err := e.app.ImageBootstrap(cmd.Context(), args[0], mirror, security, o)
			if err != nil {
				return err
			}
			return e.print("image.bootstrap", ref, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, ref.Tag)
				return err
			})
		},
	}
	c.Flags().StringVar(&mirror, "mirror", "", "URL of the package archive")
	c.Flags().StringVar(&security, "security-mirror", "", "URL of the security archive, or none (default: the mirror's name with -security)")
	imageFlags(c, &o, false)
	return c
}

func newImageBuildCmd(e *env) *cobra.Command {
	var o terok.ImageOptions
	c := &cobra.Command{
		Use:   "build",
		Short: "Make the layer L0: the base with tools and the user dev",
		Long: `Makes localhost/terok-l0:<base>. The base is taken from the local store, else pulled, else made
from the distribution's package mirror. With nothing to do it takes a fraction of a second.`,
		Example: "  terok image build\n  terok image build --base localhost/debian:13",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Verbose = !e.quiet && !e.json
			ref, err := e.app.ImageBuild(cmd.Context(), o)
			if err != nil {
				return err
			}
			return e.print("image.build", ref, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "L0:", ref.Tag)
				return err
			})
		},
	}
	imageFlags(c, &o, true)
	return c
}

func newImageListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the images that terok made",
		Example: "  terok image list\n  terok image list --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := e.app.ImageList(cmd.Context())
			if err != nil {
				return err
			}
			type row struct {
				ID      string   `json:"id"`
				Tags    []string `json:"tags"`
				Layer   string   `json:"layer"`
				Base    string   `json:"base"`
				Hash    string   `json:"hash"`
				Bytes   int64    `json:"bytes"`
				Created string   `json:"created"`
			}
			rows := make([]row, 0, len(list))
			for _, img := range list {
				tags := img.Tags
				if tags == nil {
					tags = []string{}
				}
				rows = append(rows, row{img.ID, tags, img.Labels[image.LabelLayer], img.Labels[image.LabelBase],
					img.Labels[image.LabelHash], img.Size, img.Created.Format("2006-01-02T15:04:05Z07:00")})
			}
			return e.print("image.list", rows, func(w io.Writer) error {
				fmt.Fprintf(w, "%-44s %-10s %10s  %s\n", "IMAGE", "LAYER", "SIZE", "CREATED")
				for _, r := range rows {
					name := text.Line(strings.Join(r.Tags, " "), 100)
					if name == "" {
						name = r.ID[:min(12, len(r.ID))]
					}
					fmt.Fprintf(w, "%-44s %-10s %7.1f MB  %s\n", name, text.Line(r.Layer, 20), float64(r.Bytes)/1e6, r.Created)
				}
				_, err := fmt.Fprintf(w, "%d image(s)\n", len(rows))
				return err
			})
		},
	}
}
