/*
 * Imports the results of `lymphinfer predict`: into every image of the open project, or into the open
 * image alone where there is no project.
 *
 * Change: `resultsFolder` below, where the results are not in PROJECT/lymphinfer. A result is found by
 * the name of the slide that its summary.json gives, so folders and images may be arranged in any way.
 * Runs in: the script editor (Run, not Run for project) and the menu of install_menu.groovy.
 * For QuPath 0.5 to 0.7. See README.md.
 */
import com.google.gson.Gson
import javafx.application.Platform
import qupath.fx.dialogs.Dialogs
import qupath.lib.color.ColorMaps
import qupath.lib.common.ColorTools
import qupath.lib.common.GeneralTools
import qupath.lib.gui.tools.MeasurementMapper
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The --out of `lymphinfer predict`, such as '/data/results'. null: PROJECT/lymphinfer, or a folder
// lymphinfer beside the open image
String resultsFolder = null

// Take away what an earlier import has left; other detections and annotations stay. null: ask once
Boolean replace = null

// Only the open image, even if a project is open.
boolean onlyOpenImage = false

// Give the classes the colours of the panel. false: they keep those that they have in QuPath.
boolean panelColors = true

// Colour the nuclei of the open image by this marker's probability. null: leave the display alone
String showMarker = 'CD45'

// Call the nuclei again with these thresholds, such as [CD45: 0.7, CD3e: 0.5]. A marker that is not
// named is not called. Empty: the calls stay as they are in the file.
Map<String, Double> thresholds = [:]

// ---- Work ----------------------------------------------------------------------------------

if (getQuPath() == null)
    throw new RuntimeException('QuPath script runs this once an image; use the script editor, or run_lymphinfer.groovy.')
def imageData = getCurrentImageData()
def project = getProject()
if (imageData == null && (project == null || onlyOpenImage)) {
    refuse('Open an image or a project first.')
    return
}
def folder = resultsFolder == null ? defaultFolder(project, imageData) : new File(resultsFolder)
if (folder == null || !folder.isDirectory()) {
    refuse("No such folder: ${folder}. Set resultsFolder at the top of this script.")
    return
}
def results = findResults(folder)
println "${results.values().sum(0) { it.size() }} results in ${folder}"

def mayReplace = { int number ->
    if (number > 0 && replace == null)
        replace = Dialogs.showYesNoDialog('LymphInfer', 'Nuclei of an earlier import are here. Replace them, in every image of this run?')
    return number == 0 || replace
}
def open = getProjectEntry()
int done = 0
if (project == null || onlyOpenImage) {
    def server = imageData.getServer()
    def result = resultOf(results, namesOf(server.getURIs(), server.getMetadata().getName()))
    if (result != null && load(result, imageData, mayReplace, panelColors, thresholds))
        done++
} else {
    for (entry in project.getImageList()) {
        def result = resultOf(results, namesOf(entry.getURIs(), entry.getImageName()))
        if (result == null)
            continue
        // The open image has its own copy of the data; a second one would be overwritten.
        def data = entry == open ? imageData : entry.readImageData()
        if (load(result, data, mayReplace, panelColors, thresholds)) {
            entry.saveImageData(data)
            done++
        }
        if (entry != open)
            data.getServer().close()
    }
    project.syncChanges()
}
println "${done} image(s) have their nuclei."
if (showMarker != null)
    showMap(showMarker)

/** Say why nothing was done. */
void refuse(CharSequence words) {
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}

/** Where run_lymphinfer.groovy leaves its results; null for an image that is no file. */
File defaultFolder(project, imageData) {
    // PROJECT_BASE_DIR is a text that only an open project can resolve.
    if (project != null)
        return new File(Projects.getBaseDirectory(project), 'lymphinfer')
    def slide = imageData.getServer().getURIs().collect { GeneralTools.toPath(it) }.find { it != null }
    return slide == null ? null : slide.resolveSibling('lymphinfer').toFile()
}

/** By slide name: the results in a folder, as [summary, file to import]. */
Map<String, List> findResults(File folder) {
    def found = [:].withDefault { [] }
    folder.eachFileRecurse { file ->
        if (file.name != 'summary.json')
            return
        try {
            def summary = new Gson().fromJson(file.getText('UTF-8'), Map)
            found[summary.slide.name as String] << [summary, new File(file.parentFile, summary.file as String)]
        } catch (Exception e) {
            println "Passed over ${file}: ${e.message}"
        }
    }
    return found
}

/** What an image may be called: the names of its files, then its name in the project. */
List<String> namesOf(Collection<URI> uris, String imageName) {
    def names = uris.collect { GeneralTools.toPath(it)?.getFileName()?.toString() }.findAll { it != null }
    // Readers of several images in one file add the series: "a.svs - Series 0".
    return (names + [imageName, imageName.replaceFirst(/ - .*$/, '')]).unique()
}

/** The one result of an image, or null, with the reason printed. */
List resultOf(Map<String, List> results, List<String> names) {
    def name = names.find { results.containsKey(it) }
    if (name == null) {
        println "${names[0]}: no result"
        return null
    }
    def fitting = results[name]
    if (fitting.size() > 1) {
        println "${name}: ${fitting.size()} results of this name, " +
                "${fitting.collect { it[1].parent }.join(', ')}; set resultsFolder to the one that is meant"
        return null
    }
    return fitting[0]
}

/** Put a result's nuclei into an image; true if they are there. */
boolean load(List result, imageData, Closure mayReplace, boolean panelColors, Map<String, Double> thresholds) {
    def (summary, file) = result
    if (!file.isFile()) {
        println "${summary.slide.name}: ${file} is missing; lymphinfer export --to geojson makes it again"
        return false
    }
    def server = imageData.getServer()
    if (!isOf(summary, server)) {
        println "${summary.slide.name}: the result is of ${summary.slide.dimensions.collect { it as int }.join(' x ')} px, the image " +
                "of ${server.getWidth()} x ${server.getHeight()}; another image of the file, or one that QuPath has turned or cropped"
        return false
    }
    def hierarchy = imageData.getHierarchy()
    def old = hierarchy.getDetectionObjects().findAll { isOfLymphInfer(it) }
    if (!mayReplace(old.size())) {
        println "${summary.slide.name}: ${old.size()} nuclei of an earlier import stay; replace = true takes them away"
        return false
    }
    if (panelColors)
        setColors(summary)
    def objects = PathIO.readObjects(file)
    // QuPath passes over a damaged part of a .zip in silence.
    // Every number of a JSON file is a Double here.
    if (objects.size() != (summary.nuclei as int)) {
        println "${summary.slide.name}: ${file} holds ${objects.size()} nuclei, the summary counts " +
                "${summary.nuclei as int}; nothing was imported. lymphinfer export --to geojson makes the file again"
        return false
    }
    def point = thresholds ? callAgain(objects, summary, thresholds) : summary.operating_point?.statement
    hierarchy.removeObjects(old, true)
    hierarchy.addObjects(objects)
    println "${summary.slide.name}: ${objects.size()} nuclei, bundle ${summary.bundle.name}"
    summary.markers.each { marker, row -> println "  ${marker}: ${row.evidence?.statement ?: 'no evidence was written down'}" }
    println "  Called at ${point ?: 'the thresholds of the bundle'}"
    summary.warnings.each { println "  WARNING: ${it}" }
    return true
}

/** Whether an earlier import has brought a nucleus; StarDist's own have no marker. */
boolean isOfLymphInfer(nucleus) {
    def values = nucleus.getMeasurementList()
    return !Double.isNaN(values.get('Detection probability')) && !Double.isNaN(values.get('CD45 probability'))
}

/** Whether a result is of the image that QuPath shows; of a slide with bounds QuPath shows a part. */
boolean isOf(summary, server) {
    def size = summary.slide.dimensions.collect { it as int }
    def corner = summary.slide.bounds_offset.collect { it as int }
    def shown = [server.getWidth(), server.getHeight()]
    return shown == size || (corner != [0, 0] && (0..1).every { corner[it] + shown[it] <= size[it] })
}

/** Give the classes the colours of the panel, parents first: QuPath makes up those of a class it has not met. */
void setColors(summary) {
    summary.calls.sort { it.key.count(':') }.each { name, row ->
        if (row.color != null)
            PathClass.fromString(name).setColor(ColorTools.packRGB(*row.color.collect { it as int }))
    }
}

/** Give every nucleus the deepest phenotype whose markers all reach their thresholds; those in use. */
Map<String, Double> callAgain(Collection objects, summary, Map<String, Double> thresholds) {
    def usable = thresholds.findAll { marker, threshold ->
        def evidence = summary.markers[marker]?.evidence
        boolean may = evidence != null && evidence.evidence != 'base-rate' && evidence.called != false
        if (!may)
            println "  ${marker}: ${evidence?.statement ?: 'not in this result'}; no nucleus is called on it"
        return may
    }
    // The summary names each class with its whole lineage: "CD45: CD3e: CD8a".
    def lineages = summary.calls.keySet().findAll { it != 'Other' }.collect { it.split(': ') as List }
    lineages = lineages.findAll { lineage -> lineage.every { usable.containsKey(it) } }
    for (object in objects) {
        def values = object.getMeasurementList()
        // A missing measurement is NaN, which reaches no threshold.
        def probability = { String marker -> values.get("${marker} probability".toString()) }
        def positive = lineages.findAll { lineage -> lineage.every { probability(it) >= usable[it] } }
        def best = positive.max { a, b -> a.size() <=> b.size() ?: probability(a[-1]) <=> probability(b[-1]) }
        object.setPathClass(PathClass.fromString(best == null ? 'Other' : best.join(': ')))
    }
    return usable
}

/** Colour the open image's nuclei by a marker's probability. */
void showMap(String marker) {
    def viewer = getCurrentViewer()
    if (viewer == null || getCurrentImageData() == null)
        return
    def mapper = new MeasurementMapper(
            ColorMaps.getColorMaps().get('Viridis'), "${marker} probability".toString(), getDetectionObjects())
    mapper.setDisplayMinValue(0)
    mapper.setDisplayMaxValue(1)
    Platform.runLater {
        viewer.getOverlayOptions().setMeasurementMapper(mapper)
        viewer.repaintEntireImage()
    }
}
